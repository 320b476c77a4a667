"""The proof: that the stages together answer what the whole model answers, and that as the user's module does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.bundle.manifest import TEMPERATURE_INPUT, Proof, StageSpec
from edgeexit.compiler.answers import Logits, in_batches
from edgeexit.compiler.export.inputs import Arrays
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_SURVIVORS: Final = 7
"""Then 3, then 1: batches that no power of two divides tell on models that depend on the batch's size."""
_TOLERANCE: Final = 1e-4
"""Absolute and relative: the same kernels, fused differently on either side of a cut."""
_ROUNDING_TOLERANCE: Final = 0.25
"""Of the largest logit: a batch of another size may differ in the last bit, and rounded to int8 that is a step."""
_HALF_TOLERANCE: Final = 5e-3
"""Of the largest logit: ONNX Runtime computes fp16 in float32 on processors, and rounds where a cut stands."""
_TORCH_TOLERANCE: Final = 1e-3
"""Absolute and relative: other kernels."""
_MIXES: Final = "exit '{}' answers differently when other samples have left the batch: does the model mix samples?"


class ComposedStage(NamedTuple):
    """One stage's part in a composed run."""

    feeds: Arrays
    logits: npt.NDArray[np.float32]


def check_against_torch(whole: Logits, module: Mapping[str, npt.NDArray[Any]], *, half: bool) -> None:
    """Raise CompileError when the exported graph does not answer as the module does, on the module's samples.

    `half`: it computes in 16 bits.
    """
    absolute = _absolute(whole, _TORCH_TOLERANCE, half=half)
    for name, answers in whole.items():
        expected = module[name]
        found = answers[: len(expected)]
        if not _within(found, expected, absolute, _TORCH_TOLERANCE):
            raise CompileError(
                f"the exported graph differs from the torch model at exit '{name}' by up to "
                f"{_worst(found, expected):.3g}; does forward depend on more than its inputs?"
            )


def check_independence(
    session: ReferenceSession, samples: Inputs, whole: Logits, *, half: bool, quantised: bool
) -> None:
    """Raise CompileError when samples answer differently in other company; a runner drops those that have left."""
    rows = np.arange(min(_SURVIVORS, len(next(iter(whole.values())))))[1::2]
    if len(rows):
        some = session.run({name: array[rows] for name, array in samples.items()}, list(whole))
        absolute = _after_leaving(whole, half=half, quantised=quantised)
        for (name, answers), found in zip(whole.items(), some, strict=True):
            _require_equal(found, answers[rows], absolute, _MIXES.format(name))


def compose(
    sessions: Sequence[ReferenceSession], stages: Sequence[StageSpec], samples: Inputs, *, leave: bool = False
) -> Iterator[ComposedStage]:
    """Run every stage in turn on a batch, as a device does, at temperature 1.

    With `leave`, every other sample leaves after each stage while there are two: the others' answers must stay.
    """
    tensors: Arrays = dict(samples)
    for session, stage in zip(sessions, stages, strict=True):
        feeds = {name: tensors[name] for name in (*stage.inputs, *stage.carry_in)}
        feeds[TEMPERATURE_INPUT] = np.ones(1, dtype=np.float32)
        carried = [spec.name for spec in stage.carry_out]
        logits, *results = session.run(feeds, [stage.exit.name, *carried])
        yield ComposedStage(feeds, logits)
        tensors |= zip(carried, results, strict=True)
        if leave and len(logits) > 1:
            tensors = {name: array[1::2] for name, array in tensors.items()}


def answer_staged(
    sessions: Sequence[ReferenceSession], stages: Sequence[StageSpec], samples: Inputs, *, batch: int
) -> Logits:
    """Return what the stages answer, every one of them forced, `batch` samples at a time."""
    pieces = [[run.logits for run in compose(sessions, stages, some)] for some in in_batches(samples, size=batch)]
    return {
        stage.exit.name: np.concatenate(parts) for stage, parts in zip(stages, zip(*pieces, strict=True), strict=True)
    }


def prove(
    sessions: Sequence[ReferenceSession],
    stages: Sequence[StageSpec],
    samples: Inputs,
    whole: Logits,
    *,
    half: bool,
    quantised: bool,
    batch: int,
    source: Literal["data", "random"],
) -> Proof:
    """Compare composed stages with the whole model, every stage forced, and once more while samples leave.

    `half`: they compute in 16 bits; `quantised`: some values are rounded to int8. Both sides run alike: two levels of
    optimisation round int8 differently. Raises CompileError where an exit differs by more than the tolerance.
    """
    errors = {}
    absolute = _absolute(whole, _TOLERANCE, half=half)
    after_leaving = _after_leaving(whole, half=half, quantised=quantised)
    for name, found in answer_staged(sessions, stages, samples, batch=batch).items():
        _require_equal(found, whole[name], absolute, f"the stages differ from the whole model at exit '{name}'")
        errors[name] = float(np.abs(found - whole[name]).max())

    count = len(next(iter(whole.values())))
    rows = np.arange(min(_SURVIVORS, count))
    few = {name: array[rows] for name, array in samples.items()}
    for stage, run in zip(stages, compose(sessions, stages, few, leave=True), strict=True):
        name = stage.exit.name
        _require_equal(
            run.logits,
            whole[name][rows],
            after_leaving,
            _MIXES.format(name),
        )
        rows = rows[1::2] if len(rows) > 1 else rows
    return Proof(
        samples=count,
        source=source,
        runtime=f"onnxruntime {ort.__version__}",
        absolute_tolerance=absolute,
        relative_tolerance=_TOLERANCE,
        max_absolute_error=errors,
    )


def _absolute(whole: Logits, tolerance: float, *, half: bool) -> float:
    if not half:
        return tolerance
    return max(tolerance, _HALF_TOLERANCE * _largest(whole))


def _after_leaving(whole: Logits, *, half: bool, quantised: bool) -> float:
    absolute = _absolute(whole, _TOLERANCE, half=half)
    return max(absolute, _ROUNDING_TOLERANCE * _largest(whole)) if quantised else absolute


def _largest(whole: Logits) -> float:
    return max(float(np.abs(logits).max()) for logits in whole.values())


def _require_equal(
    found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], absolute: float, complaint: str
) -> None:
    if not _within(found, expected, absolute, _TOLERANCE):
        raise CompileError(f"{complaint} (by up to {_worst(found, expected):.3g}, tolerance {absolute:g})")


def _worst(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _within(found: npt.NDArray[Any], expected: npt.NDArray[Any], absolute: float, relative: float) -> bool:
    return found.shape == expected.shape and bool(
        (np.abs(found - expected) <= absolute + relative * np.abs(expected)).all()
    )
