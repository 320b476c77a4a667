"""Runs the companions of a model, and compares them: the full model with torch, the stages with the full model."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.bundle.manifest import StageSpec, TensorSpec
from edgeexit.compiler.exits.companions import Companion, Companions
from edgeexit.compiler.exits.run import in_batches
from edgeexit.compiler.graph import BATCH
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.symbolic_shapes import input_symbolic_dims, static_or_symbolic
from edgeexit.compiler.verify import SHRINKING_BATCH, Rounding, run_stages
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

CompanionValues = Mapping[str, npt.NDArray[Any]]
"""Name of a companion's tensor -> [N, ...]."""

_NUMERIC_KINDS: Final = "biuf"
_TOLERANCE: Final = 1e-4
"""Fraction of the largest value: stages and full model use the same kernels, except where fusion ends at a cut."""
_TORCH_TOLERANCE: Final = 1e-3
"""Fraction of the largest value: torch uses other kernels."""
_FP16_TOLERANCE: Final = 5e-3
"""As for logits."""
_QUANTISED_TOLERANCE: Final = 0.25
"""As for logits: another batch size may turn the last bit of a float into a full quantisation step."""
_MAX_FLIPPED: Final = 0.01
"""Fraction of the integers and booleans that may differ in a reduced precision, which may decide a near tie
differently."""


class _Tolerance(NamedTuple):
    """How much companions may differ."""

    fraction: float
    """For floats: fraction of the value, plus the same fraction of the largest value."""
    flipped: float
    """For integers and booleans: fraction of the values."""


def check_companion_types(graph: ir.Graph, companions: Companions) -> None:
    """Raise CompileError for a companion of a type that numpy does not have, or that is no tensor of numbers."""
    types = {str(value.name): value.dtype for value in graph.outputs}
    for companion in companions:
        dtype = types[companion.tensor]
        if dtype is None or dtype == ir.DataType.UNDEFINED:
            continue  # `run_companions` checks the array
        if dtype.numpy().kind not in _NUMERIC_KINDS:
            raise CompileError(f"{_subject(companion)} is {dtype.name.lower()}; return a type of numpy, e.g. float32")


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
            raise CompileError(
                f"{_subject(companion)} has a size that depends on the data; give it one size, e.g. padded"
            )
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


def _check_rows(companion: Companion, array: object, count: int) -> None:
    """Raise CompileError for a companion that is not a numeric tensor with `count` rows."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _NUMERIC_KINDS:
        raise CompileError(f"{_subject(companion)} is not a tensor of numbers or booleans; return one")
    if array.ndim == 0 or len(array) != count:
        shape = "x".join(map(str, array.shape)) or "a scalar"
        raise CompileError(
            f"{_subject(companion)} is {shape} for a batch of {count}; a companion has one row per sample, [batch, ...]"
        )


def _check_same(companions: Companions, values: CompanionValues) -> None:
    """Raise CompileError for companions of one name with different types or shapes."""
    first: dict[str, Companion] = {}
    for companion in companions:
        one = first.setdefault(companion.name, companion)
        texts = [f"'{each.output}' {_signature(values[each.tensor])}" for each in (one, companion)]
        if _signature(values[one.tensor]) != _signature(values[companion.tensor]):
            raise CompileError(
                f"companion '{companion.name}': its outputs are different: {texts[0]}, {texts[1]}; a companion has the "
                "same type and shape at every exit"
            )


def _signature(array: npt.NDArray[Any]) -> str:
    return f"[{', '.join(['batch', *map(str, array.shape[1:])])}] {array.dtype}"


def _subject(companion: Companion) -> str:
    return f"companion '{companion.name}': output '{companion.output}'"


def _tolerance(fp32: float, rounding: Rounding, *, shrinking: bool = False) -> _Tolerance:
    """Return the tolerance of a comparison; `fp32` is the fraction in fp32, `shrinking` means that samples exit."""
    fraction = max(fp32, _FP16_TOLERANCE) if rounding.fp16 else fp32
    if shrinking and rounding.quantised:
        fraction = max(fraction, _QUANTISED_TOLERANCE)
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
        raise CompileError(f"{_subject(companion)} {problem} ({_signature(found)}, not {_signature(expected)})")
    if found.dtype.kind == "f":
        absolute = tolerance.fraction * _largest(expected)
        unequal = ~np.isclose(found, expected, rtol=tolerance.fraction, atol=absolute, equal_nan=True)
        allowed = 0.0
    else:
        unequal, allowed = found != expected, tolerance.flipped
    if unequal.mean() > allowed:
        raise CompileError(
            f"{_subject(companion)} {problem} (largest difference {_max_difference(found, expected):.3g}, for "
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
