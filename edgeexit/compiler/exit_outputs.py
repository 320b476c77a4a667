"""Runs the full model and checks its exits: they must return finite logits of the same shape, without softmax."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Task
from edgeexit.compiler.export.inputs import Arrays
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

Logits = dict[str, npt.NDArray[np.float32]]
"""Exit name -> logits [N, C], or [N, C, H, W] for segmentation."""

_RANKS: Final = {"classification": 2, "segmentation": 4}
_SHAPES: Final = {"classification": "[batch, classes]", "segmentation": "[batch, classes, height, width]"}
_MAX_BATCH: Final = 32
_MAX_BATCH_BYTES: Final = 64 << 20
_MAX_LOGIT_BYTES: Final = 512 << 20
_GOLDEN_SAMPLES: Final = 8
_MAX_GOLDEN_BYTES: Final = 16 << 20
_SUM_TOLERANCE: Final = 1e-3
_MIN_CLASSES: Final = 2


class ExitFormat(NamedTuple):
    """The task of the exits, the size of their logits, and the numbers of samples that follow from it."""

    task: Task
    bytes_per_sample: int
    """Bytes of the logits of all exits together."""

    @property
    def batch_size(self) -> int:
        """Number of samples to run in one batch: at most 32, fewer if the logits are large."""
        return max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // self.bytes_per_sample))

    @property
    def max_samples(self) -> int:
        """Largest number of samples whose logits may be in memory at the same time."""
        return max(1, _MAX_LOGIT_BYTES // self.bytes_per_sample)

    @property
    def golden_samples(self) -> int:
        """Largest number of golden samples in the bundle."""
        return max(1, min(_GOLDEN_SAMPLES, _MAX_GOLDEN_BYTES // self.bytes_per_sample))


def exit_format_of(
    session: ReferenceSession, samples: Inputs, exits: Sequence[str], *, task: Task | None
) -> ExitFormat:
    """Run one sample and return the format of the exits; if `task` is None, the rank of the exits decides the task.

    Raises CompileError for an exit that is not logits of the task, or whose shape differs from the other exits.
    """
    (one,) = in_batches(samples, size=1, until=1)
    logits = dict(zip(exits, session.run(one, exits), strict=True))
    ranks = {name: array.ndim for name, array in logits.items()}
    if len(set(ranks.values())) > 1:
        counts = ", ".join(f"'{name}' {rank}" for name, rank in ranks.items())
        raise CompileError(f"the exits have different numbers of dimensions: {counts}; select exits with --exits")
    if task is None:
        is_segmentation = any(rank == _RANKS["segmentation"] for rank in ranks.values())
        task = "segmentation" if is_segmentation else "classification"
    _check_shapes(logits, 1, task)
    return ExitFormat(task, sum(array.nbytes for array in logits.values()))


def run_exits(session: ReferenceSession, samples: Inputs, exits: Sequence[str], exit_format: ExitFormat) -> Logits:
    """Return the logits of the full model on all samples.

    Raises CompileError if an exit has a wrong shape, is NaN or infinite, or returns probabilities.
    """
    batches: list[list[npt.NDArray[Any]]] = []
    for batch in in_batches(samples, size=exit_format.batch_size):
        arrays = session.run(batch, exits)
        _check_shapes(dict(zip(exits, arrays, strict=True)), len(next(iter(batch.values()))), exit_format.task)
        batches.append(arrays)
    logits = {name: np.concatenate(parts) for name, parts in zip(exits, zip(*batches, strict=True), strict=True)}
    _check_values(logits)
    return logits


def in_batches(samples: Inputs, *, size: int, until: int | None = None) -> Iterator[Arrays]:
    """Yield the first `until` samples (default: all) in batches of at most `size`."""
    count = len(next(iter(samples.values()))) if until is None else until
    for first in range(0, count, size):
        yield {name: array[first : min(first + size, count)] for name, array in samples.items()}


def _check_shapes(logits: Mapping[str, npt.NDArray[Any]], count: int, task: Task) -> None:
    for name, array in logits.items():
        if array.ndim != _RANKS[task] or len(array) != count or not array.size:
            shape = "x".join(map(str, array.shape)) or "a scalar"
            raise CompileError(
                f"exit '{name}' is {shape} for a batch of {count}; for {task}, an exit must be logits {_SHAPES[task]}"
            )
    for name, array in logits.items():
        if array.dtype != np.float32:
            raise CompileError(f"exit '{name}' is {array.dtype}; an exit must be float32 logits; add a cast")
        if array.shape[1] < _MIN_CLASSES:
            raise CompileError(f"exit '{name}' has {array.shape[1]} class; a classifier has at least 2")
    classes = {name: array.shape[1] for name, array in logits.items()}
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"'{name}' {count}" for name, count in classes.items())
        raise CompileError(f"the exits have different numbers of classes: {counts}; select exits with --exits")
    sizes = {name: "x".join(map(str, array.shape[2:])) for name, array in logits.items()}
    if len(set(sizes.values())) > 1:
        maps = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
        raise CompileError(
            f"the exits' maps have different sizes: {maps}; resize them in the model, because a prediction of an early "
            "exit replaces one of the final exit"
        )


def _check_values(logits: Logits) -> None:
    for name, array in logits.items():
        bad = int((~np.isfinite(array.reshape(len(array), -1))).any(axis=1).sum())
        if bad:
            raise CompileError(
                f"exit '{name}' is NaN or infinite on {bad} of {len(array)} samples; check the model, or give real "
                "samples with --example"
            )
        if array.min() >= 0 and np.abs(array.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
            raise CompileError(f"exit '{name}' returns probabilities; return logits, without the softmax")
