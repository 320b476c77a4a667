"""Finds the batch in the shapes of values: as a dimension of its own, or folded into one with frames, windows or heads.

Models of video fold the frames of a clip into the batch, `[batch * frames, ...]`. Window attention does the same with
windows, and attention by batched matmuls with heads. Shapes alone do not show the order of these rows: the rows of one
sample may be neighbours (`batch * frames`) or not (`frames * batch`). So the rows of two runs are compared.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.compiler.extract import values_read_by
from edgeexit.compiler.graph import BATCH
from edgeexit.compiler.normalise import input_specs
from edgeexit.compiler.samples import Arrays, draw_samples, repeat_to
from edgeexit.compiler.sessions import probe_shapes, probe_values
from edgeexit.compiler.splitting.recompute import is_random
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

PROBE_BATCHES: Final = (2, 3)
"""Sizes of the two batches that are run to find which dimension of a value is the batch."""

_POSITIONS: Final = {"int32", "int64"}  # types of indices, which may count rows of the batch
_COMPARED: Final = 1 << 18  # elements of a value that are compared, at least one of each row
_TOLERANCE: Final = 1e-2
"""Fraction of the standard deviation: other batch sizes and float16 change the last bits of a float."""
_MAX_MISMATCH: Final = 1e-2
"""Largest fraction of elements that may differ in the right order of rows: rounding may turn into an int8 step."""
_DECISIVE: Final = 10
"""In any other order of rows, this many times more elements must differ."""
_OTHER_SIZES: Final = (
    ((1, 3), (2, 0)),
    ((0, 2), (1, -3), (0.5, 0)),
)
"""Factor and summand of larger and of smaller sizes of the symbolic dimensions; of each kind, the first that the model
runs at is used."""

Dimension = int | str
"""A static size, the name of a symbolic dimension of the model's inputs, or `""` for any other symbolic size."""


class BatchAxis(NamedTuple):
    """The axis of a value that holds `outer * batch * inner` rows, in this order.

    `outer` and `inner` are 1 if the batch is a dimension of its own. At most one of them is symbolic.
    """

    axis: int
    outer: Dimension = 1
    inner: Dimension = 1

    @property
    def factors(self) -> tuple[Dimension, ...]:
        """Sizes that are folded into the batch, outermost first."""
        return tuple(size for size in (self.outer, self.inner) if size != 1)


class BatchedValue(NamedTuple):
    """A value with rows for each sample."""

    dtype: str
    shape: tuple[int, ...]
    """Shape for a batch of the first of `PROBE_BATCHES`."""
    batch: BatchAxis


def find_batch_axes(
    model: ir.Model, names: Sequence[str], samples: Inputs, *, folder: Path
) -> dict[str, BatchedValue | None]:
    """Return where the batch is in each of the named values; None for a value without rows for each sample.

    The model runs on a batch of two samples, and on a batch of three in which the same two are the last. A value has
    rows for each sample if one dimension grows with the batch, and if the rows of the two samples are the same in both
    runs. In a dimension that is the batch alone, only the rows of integers are compared: indices into the rows of the
    batch differ, and would be wrong after a sample exits.

    Raises CompileError if the model does not run.
    """
    first, second = probe_shapes(model, names, _probe_batches(samples), folder=folder)
    found: dict[str, BatchedValue | None] = dict.fromkeys(names)
    folded: dict[str, int] = {}
    positions: dict[str, int] = {}
    unordered = {str(value.name) for value in model.graph.inputs} | _random_values(model.graph)
    for name in names:
        axis = _growing_axis(first.get(name), second.get(name))
        if axis is None:
            continue
        dtype, shape = first[name]
        found[name] = BatchedValue(dtype, shape, BatchAxis(axis))
        if shape[axis] != PROBE_BATCHES[0]:
            folded[name] = axis
        elif dtype in _POSITIONS and name not in unordered:
            positions[name] = axis
    axes = _compare(model, {**folded, **positions}, samples, folder)
    if unclear := {name: axis for name, axis in folded.items() if axes[name] is None}:
        # Equal samples do not show the order of the rows; random ones do.
        sizes = _symbolic_sizes(model.graph, samples)
        random = draw_samples(input_specs(model.graph), sizes=sizes, count=PROBE_BATCHES[1])
        with contextlib.suppress(CompileError):  # the model may not run on random samples
            axes |= _compare(model, unclear, random, folder)
    for name, batch in axes.items():
        value = found[name]
        found[name] = None if batch is None or value is None else value._replace(batch=batch)
    return found


def find_layout(first: npt.NDArray[Any], second: npt.NDArray[Any], axis: int) -> tuple[int, int] | None:
    """Return `(outer, inner)`, such that `axis` holds `outer * batch * inner` rows, or None if no order of rows fits.

    Args:
        first: the value in a batch of two samples.
        second: the value in a batch of three, of which the last two are those of `first`.
        axis: the dimension that holds the rows.

    None is also returned if several orders fit, because the rows of different samples are equal.

    """
    few, many = (size for size in PROBE_BATCHES)
    rows = first.shape[axis] // few
    step = max(1, -(-second.size // _COMPARED))  # the same elements of both
    one, other = _flat_rows(first, axis, step), _flat_rows(second, axis, step)
    spread = _spread(one)
    mismatches = []
    for outer in (size for size in range(1, rows + 1) if rows % size == 0):
        inner = rows // outer
        kept = other.reshape(outer, many, inner, -1)[:, many - few :]
        mismatches.append((_mismatch(one.reshape(outer, few, inner, -1), kept, spread), (outer, inner)))
    (best, layout), *others = sorted(mismatches)
    allowed = _MAX_MISMATCH if first.dtype.kind == "f" or first.dtype.itemsize == 1 else 0
    if best > allowed or any(mismatch <= best * _DECISIVE for mismatch, _ in others):
        return None
    return layout


def _probe_batches(samples: Inputs) -> tuple[Arrays, Arrays]:
    """Return a batch of two samples, and a batch of three of which these two are the last."""
    few, many = PROBE_BATCHES
    three = repeat_to(samples, many)
    return repeat_to(samples, few), {name: np.roll(array, many - few, axis=0) for name, array in three.items()}


def _growing_axis(first: tuple[str, tuple[int, ...]] | None, second: tuple[str, tuple[int, ...]] | None) -> int | None:
    """Return the only axis whose size differs between the runs, if it is proportional to the batch."""
    if first is None or second is None or len(first[1]) != len(second[1]) or np.dtype(first[0]).hasobject:
        return None
    few, many = PROBE_BATCHES
    grown = [axis for axis, sizes in enumerate(zip(first[1], second[1], strict=True)) if sizes[0] != sizes[1]]
    if len(grown) != 1:
        return None
    size, larger = first[1][grown[0]], second[1][grown[0]]
    return grown[0] if size and size % few == 0 and size // few * many == larger else None


def _random_values(graph: ir.Graph) -> set[str]:
    """Return the values that differ between two runs on the same samples."""
    found: set[str] = set()
    for node in graph:
        if is_random(node) or any(value.name in found for value in values_read_by(node)):
            found.update(str(value.name) for value in node.outputs)
    return found


def _compare(model: ir.Model, axes: Mapping[str, int], samples: Inputs, folder: Path) -> dict[str, BatchAxis | None]:
    """Return the batch axis of each value whose rows grow along the axis in `axes`; None if their order is unclear."""
    if not axes:
        return {}
    runs = list(_runs(model, list(axes), samples, folder))
    sizes = [at for at, _ in runs]
    return {
        name: _over_sizes(axis, [_layout([values[name] for values in pair], axis) for _, pair in runs], sizes)
        for name, axis in axes.items()
    }


def _runs(
    model: ir.Model, names: Sequence[str], samples: Inputs, folder: Path
) -> Iterator[tuple[dict[str, int], Sequence[Arrays]]]:
    """Yield the sizes of the inputs' symbolic dimensions, and the values in both batches; the given sizes come first.

    If the inputs have symbolic dimensions besides the batch, the model also runs at larger and at smaller sizes, where
    it can.
    """
    sizes = _symbolic_sizes(model.graph, samples)
    batches = _probe_batches(samples)
    yield sizes, probe_values(model, names, batches, folder=folder)
    if not sizes:
        return
    for kind in _OTHER_SIZES:
        for factor, summand in kind:
            # Different sizes for each dimension: the number of frames must not be taken for the width of a frame.
            other = {
                name: max(1, int(size * factor) + summand) + number for number, (name, size) in enumerate(sizes.items())
            }
            try:
                values = probe_values(model, names, _resized(model.graph, batches, other), folder=folder)
            except CompileError:  # the model does not run at these sizes
                continue
            yield other, values
            break


def _symbolic_sizes(graph: ir.Graph, samples: Inputs) -> dict[str, int]:
    """Return symbolic dimension -> size in the samples, without the batch."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        for dim, size in zip(value.shape or (), samples[str(value.name)].shape, strict=True):
            if isinstance(dim, ir.SymbolicDim) and dim.value not in (None, BATCH):
                sizes.setdefault(str(dim.value), size)
    return sizes


def _resized(graph: ir.Graph, batches: Sequence[Inputs], sizes: Mapping[str, int]) -> list[Arrays]:
    """Return the batches with other sizes of the symbolic dimensions: cropped, or continued from the start."""
    resized = []
    for batch in batches:
        arrays = dict(batch)
        for value in graph.inputs:
            name = str(value.name)
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, ir.SymbolicDim) and dim.value in sizes:
                    rows = np.arange(sizes[str(dim.value)]) % arrays[name].shape[axis]
                    arrays[name] = arrays[name].take(rows, axis=axis)
        resized.append(arrays)
    return resized


def _layout(pair: Sequence[npt.NDArray[Any]], axis: int) -> tuple[int, int] | None:
    """Return `find_layout` of a value in both batches; None if its size is not proportional to the batch."""
    first, second = pair
    if _growing_axis((first.dtype.name, first.shape), (second.dtype.name, second.shape)) != axis:
        return None
    return find_layout(first, second, axis)


def _over_sizes(
    axis: int, layouts: Sequence[tuple[int, int] | None], sizes: Sequence[Mapping[str, int]]
) -> BatchAxis | None:
    """Return the batch axis of a value from its layouts at several sizes of the inputs' symbolic dimensions.

    A factor is static if it is the same at the given, a larger and a smaller size; it is called like the symbolic
    dimension that has the same sizes.
    """
    if not layouts or layouts[0] is None:
        return None
    known = [layout for layout in layouts if layout is not None]
    complete = not sizes[0] or len(known) == 1 + len(_OTHER_SIZES)
    factors: list[Dimension] = []
    for factor in zip(*known, strict=True):
        names = [name for name in sizes[0] if factor == tuple(at[name] for at in sizes)]
        if set(factor) == {1} or (complete and len(set(factor)) == 1):
            factors.append(factor[0])
        else:
            factors.append(names[0] if complete and len(names) == 1 else "")
    outer, inner = factors
    return None if isinstance(outer, str) and isinstance(inner, str) else BatchAxis(axis, outer, inner)


def _flat_rows(array: npt.NDArray[Any], axis: int, step: int) -> npt.NDArray[Any]:
    """Return the rows along an axis, [rows, elements], with the first of every `step` elements."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    rows = rows[:, ::step]
    return rows.astype(np.float64) if array.dtype.kind == "f" or array.dtype.itemsize == 1 else rows


def _spread(rows: npt.NDArray[Any]) -> float:
    finite = rows[np.isfinite(rows)]
    return float(finite.std()) if finite.size else 0.0


def _mismatch(one: npt.NDArray[Any], other: npt.NDArray[Any], spread: float) -> float:
    """Return the fraction of elements that differ."""
    if one.dtype.kind != "f":
        return float((one != other).mean())
    with np.errstate(invalid="ignore"):  # inf - inf
        same = (one == other) | (np.abs(one - other) <= _TOLERANCE * spread) | (np.isnan(one) & np.isnan(other))
    return float(1 - same.mean())
