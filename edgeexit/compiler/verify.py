"""The proof: what the whole model answers, and that the stages answer the same."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.compiler.inputs import Arrays
from edgeexit.compiler.sessions import Session
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError
from edgeexit.manifest import TEMPERATURE_INPUT, Proof, StageSpec

Logits = dict[str, npt.NDArray[np.float32]]
"""Exit name -> [N, C]."""

_BATCH: Final = 32
_SURVIVORS: Final = 8
_TOLERANCE: Final = 1e-4
"""Absolute and relative: the same float32 kernels, fused differently on either side of a cut."""
_TORCH_TOLERANCE: Final = 1e-3
"""Absolute and relative: other kernels."""
_SUM_TOLERANCE: Final = 1e-3
_FEWEST_CLASSES: Final = 2


class StageRun(NamedTuple):
    """One stage's part in a composed run."""

    feeds: Arrays
    logits: npt.NDArray[np.float32]


def answer_whole(session: Session, samples: Inputs, exits: Sequence[str]) -> Logits:
    """Return what the whole model answers. Raises CompileError for an exit that is not logits [N, C] float32."""
    pieces: list[list[npt.NDArray[Any]]] = []
    for batch in _batches(samples):
        arrays = session.run(batch, exits)
        _check_form(dict(zip(exits, arrays, strict=True)), len(next(iter(batch.values()))))
        pieces.append(arrays)
    answers = {name: np.concatenate(parts) for name, parts in zip(exits, zip(*pieces, strict=True), strict=True)}
    _check_values(answers)
    return answers


def check_against_torch(whole: Logits, module: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise CompileError when the exported graph does not answer as the module does, on the module's samples."""
    for name, expected in module.items():
        found = whole[name][: len(expected)]
        if not _within(found, expected, _TORCH_TOLERANCE):
            raise CompileError(
                f"the exported graph differs from the torch model at exit '{name}' by up to "
                f"{np.abs(found - expected).max():.3g}; does forward depend on more than its inputs?"
            )


def compose(
    sessions: Sequence[Session], stages: Sequence[StageSpec], samples: Inputs, *, leave: bool = False
) -> Iterator[StageRun]:
    """Run every stage in turn on a batch, as a device does, at temperature 1.

    With `leave`, every other sample leaves after each stage while there are two: the others' answers must stay.
    """
    tensors: Arrays = dict(samples)
    for session, stage in zip(sessions, stages, strict=True):
        feeds = {name: tensors[name] for name in (*stage.inputs, *stage.carry_in)}
        feeds[TEMPERATURE_INPUT] = np.ones(1, dtype=np.float32)
        carried = [spec.name for spec in stage.carry_out]
        logits, *results = session.run(feeds, [stage.exit.name, *carried])
        yield StageRun(feeds, logits)
        tensors |= zip(carried, results, strict=True)
        if leave and len(logits) > 1:
            tensors = {name: array[1::2] for name, array in tensors.items()}


def prove(
    sessions: Sequence[Session],
    stages: Sequence[StageSpec],
    samples: Inputs,
    whole: Logits,
    *,
    source: Literal["data", "random"],
) -> Proof:
    """Compare composed stages with the whole model, every stage forced, and once more while samples leave.

    Raises CompileError where an exit differs by more than the tolerance.
    """
    errors = dict.fromkeys(whole, 0.0)
    start = 0
    for batch in _batches(samples):
        for stage, run in zip(stages, compose(sessions, stages, batch), strict=True):
            name = stage.exit.name
            expected = whole[name][start : start + len(run.logits)]
            _require_equal(run.logits, expected, f"the stages differ from the whole model at exit '{name}'")
            errors[name] = max(errors[name], float(np.abs(run.logits - expected).max()))
        start += len(next(iter(batch.values())))

    rows = np.arange(min(_SURVIVORS, start))
    few = {name: array[rows] for name, array in samples.items()}
    for stage, run in zip(stages, compose(sessions, stages, few, leave=True), strict=True):
        name = stage.exit.name
        _require_equal(
            run.logits,
            whole[name][rows],
            f"exit '{name}' answers differently when other samples have left the batch: does the model mix samples?",
        )
        rows = rows[1::2] if len(rows) > 1 else rows
    return Proof(
        samples=start,
        source=source,
        runtime=f"onnxruntime {ort.__version__}",
        absolute_tolerance=_TOLERANCE,
        relative_tolerance=_TOLERANCE,
        max_absolute_error=errors,
    )


def _batches(samples: Inputs) -> Iterator[Arrays]:
    for start in range(0, len(next(iter(samples.values()))), _BATCH):
        yield {name: array[start : start + _BATCH] for name, array in samples.items()}


def _check_form(answers: Mapping[str, npt.NDArray[Any]], count: int) -> None:
    classes: dict[str, int] = {}
    for name, logits in answers.items():
        shape = "x".join(map(str, logits.shape)) or "a scalar"
        if logits.ndim != 2 or len(logits) != count:  # noqa: PLR2004 - [N, C]
            raise CompileError(
                f"exit '{name}' is {shape} for {count} samples; an exit has to be logits [batch, classes]"
            )
        if logits.dtype != np.float32:
            raise CompileError(f"exit '{name}' is {logits.dtype}; an exit has to be logits in float32")
        if logits.shape[1] < _FEWEST_CLASSES:
            raise CompileError(f"exit '{name}' has {logits.shape[1]} class; a classifier has at least 2")
        classes[name] = logits.shape[1]
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"'{name}' {count}" for name, count in classes.items())
        raise CompileError(f"the exits have different numbers of classes: {counts}")


def _check_values(answers: Logits) -> None:
    for name, logits in answers.items():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        if bad:
            raise CompileError(
                f"exit '{name}' gives NaN or infinity on {bad} of {len(logits)} samples; check the model, or give "
                "real samples with --example"
            )
        if logits.min() >= 0 and np.abs(logits.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
            raise CompileError(f"exit '{name}' gives probabilities; return logits, without the softmax")


def _require_equal(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], complaint: str) -> None:
    if not _within(found, expected, _TOLERANCE):
        worst = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        raise CompileError(f"{complaint} (by up to {worst:.3g}, tolerance {_TOLERANCE:g})")


def _within(found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> bool:
    return found.shape == expected.shape and bool(
        (np.abs(found - expected) <= tolerance + tolerance * np.abs(expected)).all()
    )
