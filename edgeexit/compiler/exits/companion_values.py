"""Runs the companions of the full model, and describes their types and shapes."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.exits.companions import Companion, Companions
from edgeexit.compiler.graph import BATCH
from edgeexit.compiler.samples import in_batches
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.symbolic_shapes import input_symbolic_dims, static_or_symbolic
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

CompanionValues = Mapping[str, npt.NDArray[Any]]
"""Name of a companion's tensor -> [N, ...]."""

_NUMERIC_KINDS: Final = "biuf"  # numpy's own booleans, integers and floats


def check_companion_types(graph: ir.Graph, companions: Companions) -> None:
    """Raise CompileError for a companion of a type that numpy does not have, or that is no tensor of numbers."""
    types = {str(value.name): value.dtype for value in graph.outputs}
    for companion in companions:
        dtype = types[companion.tensor]
        if dtype is None or dtype == ir.DataType.UNDEFINED:
            continue  # `run_companions` checks the array
        if dtype.numpy().kind not in _NUMERIC_KINDS:
            raise CompileError(f"{companion.label} is {dtype.name.lower()}; return a type of numpy, e.g. float32")


def run_companions(
    session: ReferenceSession, samples: Inputs, companions: Companions, *, batch_size: int
) -> CompanionValues:
    """Return the companions of the full model on all samples.

    Args:
        session: the full model; its outputs have the names `Companion.output`.
        samples: input name -> [N, ...].
        companions: the companions to compute.
        batch_size: samples per batch.

    Raises CompileError for a companion that is not a numeric tensor with one row per sample, and for companions of one
    name that have different types or shapes at different exits.

    """
    if not companions:
        return {}
    names = list(dict.fromkeys(companion.output for companion in companions))
    batches = []
    for batch in in_batches(samples, size=batch_size):
        arrays = dict(zip(names, session.run(batch, names), strict=True))
        batches.append([arrays[companion.output] for companion in companions])
        for companion, array in zip(companions, batches[-1], strict=True):
            _check_rows(companion, array, len(next(iter(batch.values()))))
    values = {}
    for companion, *parts in zip(companions, *batches, strict=True):
        if len({part.shape[1:] for part in parts}) > 1:
            raise CompileError(f"{companion.label} has a size that depends on the data; give it one size, e.g. padded")
        values[companion.tensor] = np.concatenate(parts)
    _check_same(companions, values)
    return values


def describe_companions(graph: ir.Graph, companions: Companions, values: CompanionValues) -> dict[str, TensorSpec]:
    """Return the specification of each companion's tensor; the dimensions are the same at every exit.

    A dimension that is neither static nor of an input is named after the companion and the axis.
    """
    input_dims = input_symbolic_dims(graph)
    inferred = {str(value.name): value.shape for value in graph.outputs}
    shapes: dict[str, list[tuple[int | str, ...]]] = {}
    for companion in companions:
        found = values[companion.tensor].shape
        known = inferred[companion.tensor]
        dims = known if known is not None and len(known) == len(found) else ir.Shape([None] * len(found))
        sizes = (static_or_symbolic(*pair, input_dims) for pair in zip(found[1:], list(dims)[1:], strict=True))
        shapes.setdefault(companion.name, []).append(tuple(sizes))
    shared: dict[str, list[int | str]] = {}
    for name, at_exits in shapes.items():
        for axis, (size, *others) in enumerate(zip(*at_exits, strict=True), start=1):
            is_known = all(other == size for other in others) and (isinstance(size, int) or size in input_dims)
            shared.setdefault(name, []).append(size if is_known else f"{name}.{axis}")
    return {
        companion.tensor: TensorSpec(
            name=companion.tensor,
            dtype=values[companion.tensor].dtype.name,
            shape=(BATCH, *shared.get(companion.name, ())),
        )
        for companion in companions
    }


def signature_of(array: npt.NDArray[Any]) -> str:
    """Return the shape and type of a companion for error messages, as in `[batch, 4] float32`."""
    return f"[{', '.join(['batch', *map(str, array.shape[1:])])}] {array.dtype}"


def _check_rows(companion: Companion, array: object, count: int) -> None:
    """Raise CompileError for a companion that is not a numeric tensor with `count` rows."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _NUMERIC_KINDS:
        raise CompileError(f"{companion.label} is not a tensor of numbers or booleans; return one")
    if array.ndim == 0 or len(array) != count:
        shape = "x".join(map(str, array.shape)) or "a scalar"
        raise CompileError(
            f"{companion.label} is {shape} for a batch of {count}; a companion has one row per sample, [batch, ...]"
        )


def _check_same(companions: Companions, values: CompanionValues) -> None:
    """Raise CompileError for companions of one name with different types or shapes."""
    first: dict[str, Companion] = {}
    for companion in companions:
        one = first.setdefault(companion.name, companion)
        texts = [f"'{each.output}' {signature_of(values[each.tensor])}" for each in (one, companion)]
        if signature_of(values[one.tensor]) != signature_of(values[companion.tensor]):
            raise CompileError(
                f"companion '{companion.name}': its outputs are different: {texts[0]}, {texts[1]}; a companion has the "
                "same type and shape at every exit"
            )
