"""Compares the companions of a model: the full model with torch, samples that run alone, and the stages."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import StageSpec
from edgeexit.compiler.exits.companion_values import CompanionValues, run_companions, signature_of
from edgeexit.compiler.exits.companions import Companion, Companions
from edgeexit.compiler.samples import in_batches
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.verify import FP16_TOLERANCE, QUANTISED_TOLERANCE, SHRINKING_BATCH, Rounding, run_stages
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_TOLERANCE: Final = 1e-4
"""Fraction of the largest value: stages and full model use the same kernels, except where fusion ends at a cut."""
_TORCH_TOLERANCE: Final = 1e-3
"""Fraction of the largest value: torch uses other kernels."""
_MAX_FLIPPED: Final = 0.01
"""Fraction of the integers and booleans that may differ in a reduced precision, which may decide a near tie
differently."""


class _Tolerance(NamedTuple):
    """How much companions may differ."""

    fraction: float
    """For floats: fraction of the value, plus the same fraction of the largest value."""
    flipped: float
    """For integers and booleans: fraction of the values."""


def check_companions_against_torch(
    companions: Companions, values: CompanionValues, module_outputs: Mapping[str, npt.NDArray[Any]], rounding: Rounding
) -> None:
    """Raise CompileError if the exported graph and the torch module return different companions for one batch.

    `module_outputs` is output name -> [n, ...].
    """
    for companion in companions:
        expected = module_outputs[companion.output]
        found = values[companion.tensor]
        if found.dtype.kind == "f":  # `run_module` returns float32
            found = found.astype(expected.dtype)
        _require_equal(
            companion, found, expected, _tolerance(_TORCH_TOLERANCE, rounding),
            "differs between the exported graph and torch; does forward depend on anything besides its inputs?",
        )  # fmt: skip


def check_companions_independent(
    session: ReferenceSession,
    samples: Inputs,
    companions: Companions,
    values: CompanionValues,
    rounding: Rounding,
) -> None:
    """Raise CompileError if a companion of a sample depends on the other samples of its batch.

    Some samples run alone, and every second one without the others.
    """
    few = np.arange(min(SHRINKING_BATCH, len(next(iter(samples.values())))))
    for rows in (few[:1], few[1:2], few[1::2]) if companions and len(few) > 1 else ():
        some = {name: array[rows] for name, array in samples.items()}
        found = run_companions(session, some, companions, batch_size=len(rows))
        _compare_shrunk(companions, found, values, rows, rounding)


def prove_companions(
    sessions: Sequence[ReferenceSession],
    stages: Sequence[StageSpec],
    samples: Inputs,
    companions: Companions,
    *,
    expected: CompanionValues,
    rounding: Rounding,
    batch_size: int,
) -> dict[str, float]:
    """Compare the companions of the composed stages with the full model: with every sample, then while samples exit.

    The arguments are those of `prove_stages`. Return companion name -> largest absolute difference over all exits.
    Raises CompileError if a companion differs by more than the tolerance.
    """
    if not companions:
        return {}
    batches = [
        {name: array for run in run_stages(sessions, stages, some) for name, array in run.companions.items()}
        for some in in_batches(samples, size=batch_size)
    ]
    errors: dict[str, float] = {}
    for companion in companions:
        found = np.concatenate([batch[companion.tensor] for batch in batches])
        _require_equal(
            companion, found, expected[companion.tensor], _tolerance(_TOLERANCE, rounding),
            "differs between the stages and the full model",
        )  # fmt: skip
        error = _max_difference(found, expected[companion.tensor])
        errors[companion.name] = max(error, errors.get(companion.name, 0.0))

    rows = np.arange(min(SHRINKING_BATCH, len(next(iter(samples.values())))))
    few = {name: array[rows] for name, array in samples.items()}
    for stage, run in zip(stages, run_stages(sessions, stages, few, shrink=True), strict=True):
        mine = [companion for companion in companions if companion.exit == stage.exit.name]
        _compare_shrunk(mine, run.companions, expected, rows, rounding)
        rows = rows[1::2] if len(rows) > 1 else rows
    return errors


def _compare_shrunk(
    companions: Sequence[Companion],
    found: CompanionValues,
    expected: CompanionValues,
    rows: npt.NDArray[np.intp],
    rounding: Rounding,
) -> None:
    """Compare companions of some of the samples, `rows`, with those of all samples."""
    tolerance = _tolerance(_TOLERANCE, rounding, shrinking=True)
    problem = "is different when other samples exit; does the model mix the samples of a batch?"
    for companion in companions:
        name = companion.tensor
        _require_equal(companion, found[name], expected[name][rows], tolerance, problem)


def _tolerance(fp32: float, rounding: Rounding, *, shrinking: bool = False) -> _Tolerance:
    """Return the tolerance of a comparison; `fp32` is the fraction in fp32, `shrinking` means that samples exit."""
    fraction = max(fp32, FP16_TOLERANCE) if rounding.fp16 else fp32
    if shrinking and rounding.quantised:
        fraction = max(fraction, QUANTISED_TOLERANCE)
    return _Tolerance(fraction, _MAX_FLIPPED if rounding.fp16 or rounding.quantised else 0.0)


def _require_equal(
    companion: Companion,
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    tolerance: _Tolerance,
    problem: str,
) -> None:
    """Raise CompileError, which contains `problem`, unless the values are equal within the tolerance.

    NaN equals NaN, and infinity equals itself.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise CompileError(f"{companion.label} {problem} ({signature_of(found)}, not {signature_of(expected)})")
    if found.dtype.kind == "f":
        absolute = tolerance.fraction * _largest(expected)
        unequal = ~np.isclose(found, expected, rtol=tolerance.fraction, atol=absolute, equal_nan=True)
        allowed = 0.0
    else:
        unequal, allowed = found != expected, tolerance.flipped
    if unequal.mean() > allowed:
        raise CompileError(
            f"{companion.label} {problem} (largest difference {_max_difference(found, expected):.3g}, for "
            f"{unequal.mean():.1%} of the values)"
        )


def _largest(array: npt.NDArray[Any]) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def _max_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference of the finite values; infinity if others differ."""
    one, other = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    return float(np.abs(one[finite] - other[finite]).max()) if finite.any() else 0.0
