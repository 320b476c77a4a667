"""Describes which regions of a node's inputs a region of its output needs, and how it is computed from them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx_ir as ir

from edgeexit.compiler.unpack.regions import Region, dims_of, dims_of_region
from edgeexit.compiler.unpack.rewriter import Rewriter


class Operand(NamedTuple):
    """A value, or a region of it."""

    value: ir.Value
    region: Region | None = None
    """None: the full value."""


class BuildTarget(NamedTuple):
    """The region to compute, as a new value."""

    value: ir.Value
    region: Region

    @property
    def shape(self) -> ir.Shape | None:
        """Shape of the region."""
        dims = dims_of(self.value)
        return None if dims is None else ir.Shape(dims_of_region(dims, self.region))


Build = Callable[[Rewriter, BuildTarget, Sequence[ir.Value]], ir.Value]
"""(rewriter, target, values of the operands) -> the region, as the output of new nodes or one of the operands."""


class Pull(NamedTuple):
    """The operands from which a region of a node's output is computed."""

    operands: tuple[Operand, ...]
    build: Build


def copy_of(node: ir.Node, regions: Sequence[Region | None]) -> Pull:
    """Return the pull that applies a copy of a node to `regions` of its inputs; None is a full input."""
    places = [index for index, value in enumerate(node.inputs) if value is not None]
    operands = tuple(Operand(node.inputs[index], regions[index]) for index in places)  # type: ignore[arg-type]

    def build(rewriter: Rewriter, target: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        inputs: list[ir.Value | None] = [None] * len(node.inputs)
        for index, value in zip(places, values, strict=True):
            inputs[index] = value
        return rewriter.copy(node, inputs, like=target.value, shape=target.shape)

    return Pull(operands, build)


def first_of(value: ir.Value, region: Region) -> Pull:
    """Return the pull whose result is a region of another value."""
    return Pull((Operand(value, region),), lambda _rewriter, _target, values: values[0])


def join_along(axis: int) -> Build:
    """Return the builder that concatenates the operands; a single operand is the result itself."""

    def build(rewriter: Rewriter, target: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        if len(values) == 1:
            return values[0]
        return rewriter.emit("Concat", values, {"axis": axis}, like=target.value, shape=target.shape)

    return build
