"""What the whole model answers, and whether those answers are exits: logits of one form, finite, not yet softmaxed."""

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
"""Exit name -> [N, C], or [N, C, H, W] to segment."""

_RANKS: Final = {"classification": 2, "segmentation": 4}
_FORMS: Final = {"classification": "[batch, classes]", "segmentation": "[batch, classes, height, width]"}
_MAX_BATCH: Final = 32
_BATCH_BYTES: Final = 64 << 20
_KEPT_BYTES: Final = 512 << 20
_GOLDEN_SAMPLES: Final = 8
_GOLDEN_BYTES: Final = 16 << 20
_SUM_TOLERANCE: Final = 1e-3
_MIN_CLASSES: Final = 2


class ExitForm(NamedTuple):
    """What kind of answers a model gives, and how big they are."""

    task: Task
    sample_bytes: int
    """Of one sample's answers at every exit together."""

    @property
    def batch(self) -> int:
        """How many samples to run at a time, so that big maps do not fill the memory."""
        return max(1, min(_MAX_BATCH, _BATCH_BYTES // self.sample_bytes))

    @property
    def samples(self) -> int:
        """How many samples' answers to keep in memory at most."""
        return max(1, _KEPT_BYTES // self.sample_bytes)

    @property
    def golden(self) -> int:
        """How many samples' answers to ship at most."""
        return max(1, min(_GOLDEN_SAMPLES, _GOLDEN_BYTES // self.sample_bytes))


def form_of(session: ReferenceSession, samples: Inputs, exits: Sequence[str], *, task: Task | None) -> ExitForm:
    """Return the form of the exits, from one sample; without `task` their rank tells it.

    Raises CompileError for an exit that is no logits of the task, or of another size than the others.
    """
    (one,) = in_batches(samples, size=1, until=1)
    answers = dict(zip(exits, session.run(one, exits), strict=True))
    ranks = {name: logits.ndim for name, logits in answers.items()}
    if len(set(ranks.values())) > 1:
        counts = ", ".join(f"'{name}' {rank}" for name, rank in ranks.items())
        raise CompileError(f"the exits have different numbers of dimensions: {counts}; name those to take with --exits")
    if task is None:
        task = (
            "segmentation"
            if any(logits.ndim == _RANKS["segmentation"] for logits in answers.values())
            else "classification"
        )
    _check_form(answers, 1, task)
    return ExitForm(task, sum(logits.nbytes for logits in answers.values()))


def answer(session: ReferenceSession, samples: Inputs, exits: Sequence[str], form: ExitForm) -> Logits:
    """Return what the whole model answers. Raises CompileError where an answer is no logits."""
    pieces: list[list[npt.NDArray[Any]]] = []
    for batch in in_batches(samples, size=form.batch):
        arrays = session.run(batch, exits)
        _check_form(dict(zip(exits, arrays, strict=True)), len(next(iter(batch.values()))), form.task)
        pieces.append(arrays)
    answers = {name: np.concatenate(parts) for name, parts in zip(exits, zip(*pieces, strict=True), strict=True)}
    _check_values(answers)
    return answers


def in_batches(samples: Inputs, *, size: int, until: int | None = None) -> Iterator[Arrays]:
    """Yield samples up to `until`, `size` at a time."""
    count = len(next(iter(samples.values()))) if until is None else until
    for first in range(0, count, size):
        yield {name: array[first : min(first + size, count)] for name, array in samples.items()}


def _check_form(answers: Mapping[str, npt.NDArray[Any]], count: int, task: Task) -> None:
    for name, logits in answers.items():
        if logits.ndim != _RANKS[task] or len(logits) != count or not logits.size:
            shape = "x".join(map(str, logits.shape)) or "a scalar"
            raise CompileError(
                f"exit '{name}' is {shape} for a batch of {count}; to {task}, an exit has to be logits {_FORMS[task]}"
            )
    for name, logits in answers.items():
        if logits.dtype != np.float32:
            raise CompileError(f"exit '{name}' is {logits.dtype}; an exit has to be logits in float32")
        if logits.shape[1] < _MIN_CLASSES:
            raise CompileError(f"exit '{name}' has {logits.shape[1]} class; a classifier has at least 2")
    classes = {name: logits.shape[1] for name, logits in answers.items()}
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"'{name}' {count}" for name, count in classes.items())
        raise CompileError(f"the exits have different numbers of classes: {counts}")
    sizes = {name: "x".join(map(str, logits.shape[2:])) for name, logits in answers.items()}
    if len(set(sizes.values())) > 1:
        maps = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
        raise CompileError(
            f"the exits' maps have different sizes: {maps}; resize them in the model, so that an early one can stand "
            "for the final one"
        )


def _check_values(answers: Logits) -> None:
    for name, logits in answers.items():
        bad = int((~np.isfinite(logits.reshape(len(logits), -1))).any(axis=1).sum())
        if bad:
            raise CompileError(
                f"exit '{name}' gives NaN or infinity on {bad} of {len(logits)} samples; check the model, or give "
                "real samples with --example"
            )
        if logits.min() >= 0 and np.abs(logits.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
            raise CompileError(f"exit '{name}' gives probabilities; return logits, without the softmax")
