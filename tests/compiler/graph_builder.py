"""Builds an ONNX graph node by node, and computes every shape for several batch sizes and lengths."""

from collections.abc import Callable, Sequence
from math import prod
from random import Random
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RUNS = ((11, 13), (17, 13), (11, 6))
"""Batch size and length of three runs: a dimension that depends on either has different sizes in them."""
Dim = tuple[int, ...]
"""A dimension's size in each of `RUNS`."""
BATCH: Dim = tuple(batch for batch, _ in RUNS)
LENGTH: Dim = tuple(length for _, length in RUNS)
F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL  # noqa: E741 - as ONNX writes them
_COLLIDING = (
    "batch", "e0.readout", "e1.probabilities", "x.batch_first", "a/b:0", "with space", "größe", "probe", "h.out",
    "edgeexit.temperature", "N", "stage0", "e0.value", "x.back", "full_model", "v1.batch_first", "v2.batch_first", "",
)  # fmt: skip
"""Names of values that the compiler may also give, or that need quoting."""
_MAX_ELEMENTS = 20_000
"""Larger values are not read by later nodes."""


def num(size: int) -> Dim:
    return (size,) * len(RUNS)


class Value(NamedTuple):
    """A value of the graph."""

    name: str
    dtype: int
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def batch_axis(self) -> int | None:
        """Axis of the batch, if it is a separate dimension and the only one that depends on the batch size."""
        varying = [axis for axis, dim in enumerate(self.shape) if dim[0] != dim[1]]
        return varying[0] if len(varying) == 1 and self.shape[varying[0]] == BATCH else None

    def fixed(self, axis: int) -> bool:
        return len(set(self.shape[axis])) == 1

    def free_axes(self) -> list[int]:
        """Axes whose size does not depend on the batch size."""
        return [axis for axis, dim in enumerate(self.shape) if dim[0] == dim[1]]


class Graph:
    """A graph to which nodes are added."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.weights = np.random.default_rng(rng.randint(0, 1 << 30))
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names: set[str] = {""}
        self.folds: list[Any] = []
        """Values with the batch and another dimension in one."""
        self.data_dependent: set[str] = set()
        """Values that depend on the data of an input, not only on its shape."""

    def name(self) -> str:
        free = [name for name in _COLLIDING if name not in self.names]
        name = self.rng.choice(free) if free and self.rng.random() < 0.06 else f"v{len(self.names)}"
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = self.name()
        array = np.asarray(array, dtype=dtype)
        if self.rng.random() < 0.3:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        fan = prod(shape[:-1]) or 1
        return self.constant(self.weights.standard_normal(shape) / np.sqrt(fan))

    def add(self, op: str, reads: Sequence[str], *made: tuple[int, Sequence[Dim]], **attributes: Any) -> list[Value]:
        """Add a node that reads the values `reads`; `made` are the types and shapes of its outputs. Return these."""
        outputs = [Value(self.name(), dtype, tuple(shape)) for dtype, shape in made]
        names = [value.name for value in outputs]
        inside = [node for body in attributes.values() if isinstance(body, onnx.GraphProto) for node in body.node]
        captured = {name for node in inside for name in node.input}
        if op != "Shape" and not self.data_dependent.isdisjoint([*reads, *captured]):
            self.data_dependent.update(names)
        node_name = self.rng.choice(["", f"n{len(self.nodes)}", f"a/b c:{len(self.nodes)}"])
        self.nodes.append(helper.make_node(op, list(reads), names, name=node_name, **attributes))
        self.values += [v for v in outputs if all(prod(sizes) < _MAX_ELEMENTS for sizes in zip(*v.shape, strict=True))]
        return outputs

    def pick(self, fits: Callable[[Value], bool] = lambda _: True, dtype: int | None = F) -> Value:
        """Return a random value for which `fits` is True, often one of the last four. Raises IndexError without one."""
        found = [value for value in self.values if (dtype is None or value.dtype == dtype) and fits(value)]
        if self.rng.random() < 0.6:
            found = found[-4:]
        return self.rng.choice(found)

    def dim_of(self, dim: Dim) -> str:
        """Return the name of an int64 tensor [1] with a dimension's size, read from a value that has it."""
        if len(set(dim)) == 1 and self.rng.random() < 0.7:
            return self.constant([dim[0]], np.int64)
        value = self.pick(lambda v: dim in v.shape, None)
        axis = value.shape.index(dim)
        idiom = self.rng.randint(0, 2)
        if idiom == 0:
            return self.add("Shape", [value.name], (I, [num(1)]), start=axis, end=axis + 1)[0].name
        (shape,) = self.add("Shape", [value.name], (I, [num(value.rank)]))
        if idiom == 1:
            return self.add("Gather", [shape.name, self.constant([axis], np.int64)], (I, [num(1)]), axis=0)[0].name
        (scalar,) = self.add("Gather", [shape.name, self.constant(axis, np.int64)], (I, []), axis=0)
        return self.add("Unsqueeze", [scalar.name, self.constant([0], np.int64)], (I, [num(1)]))[0].name

    def sizes(self, dims: Sequence[Dim]) -> str:
        """Return the name of an int64 tensor with these sizes; the graph computes the sizes that vary."""
        if all(len(set(dim)) == 1 for dim in dims):
            return self.constant([dim[0] for dim in dims], np.int64)
        parts = [self.dim_of(dim) for dim in dims]
        return self.add("Concat", parts, (I, [num(len(dims))]), axis=0)[0].name
