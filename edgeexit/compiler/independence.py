"""Checks that a sample's logits do not depend on the other samples of its batch, and names the node that mixes them.

The runtime removes samples from the batch when they exit, and the batch of a device depends on its load.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.compiler.exits.run import Logits
from edgeexit.compiler.extract import values_read_by
from edgeexit.compiler.graph import BATCH, REDUCTIONS, label_of, opset_of
from edgeexit.compiler.onnx_file.batch_places import constant_ints, reduced_axes
from edgeexit.compiler.samples import Arrays, repeat_to
from edgeexit.compiler.sessions import ReferenceSession, probe_values
from edgeexit.compiler.verify import (
    SHRINKING_BATCH,
    Rounding,
    largest_logit,
    max_difference,
    shrinking_tolerance,
    within,
)
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_ALONE: Final = 3
"""Number of samples that also run alone."""
_FACTORS: Final = (-1.0, 3.0, 0.25)
"""The other samples of a batch are also copies of its samples, with floats times these factors."""
_BATCH_SIZE_TOLERANCE: Final = 1e-5
"""Fraction of the largest logit: another batch size may select another kernel, which adds in another order."""
_NODE_TOLERANCE: Final = 1e-3
"""Fraction of the largest element: how much a value may change before its node counts as one that mixes samples."""

_REDUCTIONS: Final = {*REDUCTIONS} - {"ReduceMax", "ReduceMin"}
"""Without ReduceMax and ReduceMin: `x - x.max()` before a softmax changes nothing."""
_ALONG_AXIS: Final = {"Hardmax": -1, "LogSoftmax": -1, "LpNormalization": -1, "Softmax": -1}
"""Operators that normalise along one axis -> the default axis."""
_FROM_AXIS: Final = {"LayerNormalization": -1, "RMSNormalization": -1}
"""Operators that normalise over an axis and all later ones -> the default axis."""
_TRAINING_OPSET: Final = 14
"""Since this opset, BatchNormalization has the attribute `training_mode`; before, it has more outputs in training."""
_SECOND: Final = 1
"""Position in the batch of the sample that is compared to name a node."""
_SHAPE_ONLY: Final = {"Shape", "Size"}


class _TestBatch(NamedTuple):
    """A batch that contains some of the samples beside other ones."""

    feeds: Arrays
    rows: Sequence[int]
    """The samples, which are adjacent in the batch."""
    first: int = 0
    """Position of the first of them; all other positions have other samples."""


def check_independence(
    session: ReferenceSession,
    samples: Inputs,
    logits: Logits,
    rounding: Rounding,
    *,
    model: ir.Model,
    folder: Path,
) -> None:
    """Raise CompileError, which names the node, if the logits of a sample depend on the other samples of its batch.

    Operators that compute over the batch are found in the graph. Others are found by running some samples alone, in
    smaller batches, and with copies of each other as the rest of the batch.

    Args:
        session: the full model.
        samples: input name -> [N, ...]; one sample is enough.
        logits: logits of the full model on `samples`.
        rounding: reduced types of the full model.
        model: the normalised graph of the full model.
        folder: folder with the weights of `model`, for temporary files.

    """
    node = find_batch_operator(model)
    if node is not None:
        raise CompileError(_mixing_error(node))
    tolerance = max(shrinking_tolerance(logits, rounding), _BATCH_SIZE_TOLERANCE * largest_logit(logits))
    scaled = not any(node.op_type == "DynamicQuantizeLinear" for node in model.graph)  # its scale is of the batch
    for batch in _test_batches(samples, scaled=scaled):
        try:
            found = session.run(batch.feeds, list(logits))
        except CompileError:
            if batch.first:
                continue  # a copy may be no valid sample
            raise
        for (name, expected), array in zip(logits.items(), found, strict=True):
            rows = expected[list(batch.rows)]
            some = array[batch.first : batch.first + len(rows)]
            if not within(some, rows, tolerance, tolerance):
                reason = _describe_mixing(model, samples, folder)
                raise CompileError(f"{reason} (exit '{name}' changes by up to {max_difference(some, rows):.3g})")


def find_batch_operator(model: ir.Model) -> ir.Node | None:
    """Return the first node of a normalised graph that computes over the batch and that an exit depends on, or None.

    These are float reductions and normalisations along the batch, BatchNormalization in training mode, and If with a
    condition that depends on the samples.
    """
    needed = _needed_data(model.graph)
    varying = set(model.graph.inputs)
    for node in model.graph:
        if node.op_type in _SHAPE_ONLY or varying.isdisjoint(values_read_by(node)):
            continue
        is_steered = node.op_type == "If" and node.inputs[0] in varying  # one condition for all samples
        varying.update(node.outputs)
        if node in needed and (is_steered or _computes_over_batch(node, opset_of(model))):
            return node
    return None


def _needed_data(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes whose data the outputs depend on, not only their shapes."""
    needed: set[ir.Node] = set()
    pending = list(graph.outputs)
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in needed and node.op_type not in _SHAPE_ONLY:
            needed.add(node)
            pending.extend(values_read_by(node))
    return needed


def _computes_over_batch(node: ir.Node, opset: int) -> bool:
    """Return True if the attributes of a node make it compute over the batch."""
    if node.domain != "" or not node.inputs:
        return False
    if node.op_type == "BatchNormalization":
        old = opset < _TRAINING_OPSET and len(node.outputs) > 1
        return old or bool(node.attributes.get_int("training_mode", 0))
    data = node.inputs[0]
    if data is None or data.shape is None or data.dtype is None or not data.dtype.is_floating_point():
        return False
    rank = len(data.shape)
    axes: set[int] | None = set()
    if node.op_type in _REDUCTIONS:
        axes = reduced_axes(node, rank)
    elif node.op_type in _ALONG_AXIS:
        axes = {node.attributes.get_int("axis", _ALONG_AXIS[node.op_type]) % rank}
    elif node.op_type in _FROM_AXIS:
        axes = set(range(node.attributes.get_int("axis", _FROM_AXIS[node.op_type]) % rank, rank))
    elif node.op_type == "CumSum":
        axes = {axis % rank for axis in constant_ints(node.inputs[1]) or ()}
    return any(_is_batch(data.shape[axis]) for axis in axes or ())


def _is_batch(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, ir.SymbolicDim) and size.value == BATCH


def _test_batches(samples: Inputs, *, scaled: bool) -> Iterator[_TestBatch]:
    """Yield samples alone, one repeated, every second one and, if `scaled`, samples among changed copies."""
    count = min(SHRINKING_BATCH, len(next(iter(samples.values()))))
    few = {name: array[:count] for name, array in samples.items()}
    for row in range(min(_ALONE, count)):
        yield _TestBatch({name: array[row : row + 1] for name, array in few.items()}, [row])
    yield _TestBatch({name: array[[0, 0, 0]] for name, array in few.items()}, [0, 0, 0])
    fewer = list(range(count))[1::2]
    if fewer:
        yield _TestBatch({name: array[fewer] for name, array in few.items()}, fewer)
    if scaled:
        yield _with_copies(samples)


def _with_copies(samples: Inputs) -> _TestBatch:
    """Return a batch of the first samples, with changed copies of them before and behind."""
    first = {name: array[:_ALONE] for name, array in samples.items()}
    copies = {name: _changed(array) for name, array in repeat_to(first, len(_FACTORS)).items()}
    feeds = {name: np.concatenate([copies[name][:1], array, copies[name][1:]]) for name, array in first.items()}
    return _TestBatch(feeds, range(len(next(iter(first.values())))), first=1)


def _changed(copies: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return other samples: floats times `_FACTORS`, integers and booleans moved along the last axis."""
    if copies.dtype.kind == "f":
        factors = np.array(_FACTORS, dtype=copies.dtype).reshape(-1, *[1] * (copies.ndim - 1))
        with np.errstate(over="ignore"):
            scaled: npt.NDArray[Any] = copies * factors
        return scaled
    return np.roll(copies, 1, axis=-1) if copies.ndim > 1 else copies


def _describe_mixing(model: ir.Model, samples: Inputs, folder: Path) -> str:
    """Return the start of the error message: the first node whose result for a sample changes with its batch."""
    alone = {name: array[:1] for name, array in samples.items()}
    names = [str(value.name) for node in model.graph for value in node.outputs if value.name]
    turned = {name: np.roll(array, _SECOND, axis=0) for name, array in repeat_to(samples, _ALONE).items()}
    for feeds in (_with_copies(samples).feeds, turned):
        repeated = repeat_to(alone, len(next(iter(feeds.values()))))
        try:
            together, same, single = probe_values(model, names, [feeds, repeated, alone], folder=folder)
        except CompileError:
            continue  # a copy may be no valid sample
        for node in model.graph:
            for name in (str(value.name) for value in node.outputs):
                if name in together and _differs(together[name], same[name], single[name]):
                    return _mixing_error(node)
    return "the logits of a sample change with the other samples of its batch; every sample must be independent"


def _differs(together: npt.NDArray[Any], repeated: npt.NDArray[Any], single: npt.NDArray[Any]) -> bool:
    """Return True if the part of a value that belongs to the second sample of a batch depends on the batch.

    Args:
        together: the value in a batch of different samples.
        repeated: the value in a batch of the same size that repeats the second sample.
        single: the value of this sample alone, which shows the axis of the batch.

    """
    if together.shape != repeated.shape or together.ndim != single.ndim or together.dtype.kind not in "fiub":
        return False
    axes = [axis for axis in range(together.ndim) if together.shape[axis] != single.shape[axis]]
    if not axes:  # one value for the batch
        return _is_different(together, repeated)
    (axis, *others), length = axes, single.shape[axes[0]]
    if others or not length or together.shape[axis] % length:
        return False
    arrays = [np.moveaxis(array, axis, 0) for array in (together, repeated)]
    rows = slice(_SECOND * length, (_SECOND + 1) * length), slice(_SECOND, None, together.shape[axis] // length)
    alone = np.moveaxis(single, axis, 0)
    return all(  # the rows of a sample may be adjacent or interleaved
        _is_different(arrays[0][part], arrays[1][part]) or _is_different(arrays[1][part], alone) for part in rows
    )


def _is_different(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    if first.dtype.kind != "f":
        return not np.array_equal(first, second)
    one, other = first.astype(np.float64), second.astype(np.float64)
    scale = float(np.nanmax(np.abs(other), initial=0)) if np.isfinite(other).any() else 0.0
    return not np.allclose(one, other, rtol=_NODE_TOLERANCE, atol=_NODE_TOLERANCE * scale, equal_nan=True)


def _mixing_error(node: ir.Node) -> str:
    label = label_of(node)
    if node.op_type == "BatchNormalization":
        return (
            f"{label} normalises with the statistics of the batch, so predictions would change with the other samples; "
            "export the model in evaluation mode, with running statistics"
        )
    return (
        f"{label} mixes the samples of a batch, so predictions would change with the other samples; compute per sample"
    )
