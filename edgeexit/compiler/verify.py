"""Proves that the stages return the logits of the full model, and that the exported graph returns those of torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from edgeexit.bundle.manifest import TEMPERATURE_INPUT, Proof, StageSpec
from edgeexit.compiler.exits.run import Logits
from edgeexit.compiler.graph import has_16_bit_floats, is_quantised
from edgeexit.compiler.samples import Arrays, in_batches
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

SHRINKING_BATCH: Final = 7
"""Number of samples in a run in which samples exit: the batch shrinks from 7 to 3 to 1.

The sizes are odd, so a model that needs an even batch size fails."""
_TOLERANCE: Final = 1e-4
"""Absolute and relative: stages and full model use the same kernels, but ONNX Runtime fuses none across a cut."""
QUANTISED_TOLERANCE: Final = 0.25
"""Fraction of the largest logit: another batch size may change the last bit of a float, and rounding to int8 may turn
this into a full quantisation step."""
FP16_TOLERANCE: Final = 5e-3
"""Fraction of the largest logit: on CPUs, ONNX Runtime computes fp16 in float32 and rounds at every cut."""
_TORCH_TOLERANCE: Final = 1e-3
"""Absolute and relative: torch uses other kernels."""
_MIXES: Final = "exit '{}' returns different logits when other samples exit; does the model mix the samples of a batch?"


class Rounding(NamedTuple):
    """The reduced types that a model computes with; with these, the tolerances are larger."""

    fp16: bool
    """The model has float16 or bfloat16 values."""
    quantised: bool
    """The model rounds values to 8-bit integers."""


def rounding_of(model: ir.Model) -> Rounding:
    """Return the reduced types of a normalised model."""
    return Rounding(fp16=has_16_bit_floats(model), quantised=is_quantised(model))


class ComposedStage(NamedTuple):
    """The run of one stage, after those of the earlier stages."""

    feeds: Arrays
    """Inputs of the stage, with the carries and the temperature."""
    logits: npt.NDArray[np.float32]
    """[B, C], or [B, C, H, W] for segmentation."""
    companions: Arrays
    """Name of a companion's tensor -> [B, ...]."""


def check_against_torch(logits: Logits, module_logits: Mapping[str, npt.NDArray[Any]], rounding: Rounding) -> None:
    """Raise CompileError if the exported graph and the torch module return different logits for one batch.

    For a batch of 1, the module's logits may lack the batch dimension: its forward may call `squeeze`.
    """
    absolute = _absolute(logits, _TORCH_TOLERANCE, rounding)
    for name, found in logits.items():
        expected = module_logits[name]
        if len(found) == 1 and expected.shape == found.shape[1:]:
            expected = expected[None]
        if not within(found, expected, absolute, _TORCH_TOLERANCE):
            raise CompileError(
                f"the exported graph differs from the torch model at exit '{name}' by up to "
                f"{max_difference(found, expected):.3g} for a batch of {len(found)}; does forward depend on "
                "anything besides its inputs, or on the size of the batch?"
            )


def run_stages(
    sessions: Sequence[ReferenceSession], stages: Sequence[StageSpec], samples: Inputs, *, shrink: bool = False
) -> Iterator[ComposedStage]:
    """Run all stages in order on one batch, as a device does, at temperature 1.

    With `shrink`, every other sample is removed after each stage while there are at least two.
    """
    tensors: Arrays = dict(samples)
    for session, stage in zip(sessions, stages, strict=True):
        feeds = {name: tensors[name] for name in (*stage.inputs, *stage.carry_in)}
        feeds[TEMPERATURE_INPUT] = np.ones(1, dtype=np.float32)
        carried = [spec.name for spec in stage.carry_out]
        companions = [spec.name for spec in stage.companions.values()]
        logits, *results = session.run(feeds, [stage.exit.name, *companions, *carried])
        yield ComposedStage(feeds, logits, dict(zip(companions, results, strict=False)))
        tensors |= zip(carried, results[len(companions) :], strict=True)
        if shrink and len(logits) > 1:
            tensors = {name: array[1::2] for name, array in tensors.items()}


def staged_logits(
    sessions: Sequence[ReferenceSession], stages: Sequence[StageSpec], samples: Inputs, *, batch_size: int
) -> Logits:
    """Run every stage on every sample, `batch_size` samples at a time, and return the logits of all exits."""
    batches = [
        [run.logits for run in run_stages(sessions, stages, some)] for some in in_batches(samples, size=batch_size)
    ]
    return {
        stage.exit.name: np.concatenate(parts) for stage, parts in zip(stages, zip(*batches, strict=True), strict=True)
    }


def prove_stages(
    sessions: Sequence[ReferenceSession],
    stages: Sequence[StageSpec],
    samples: Inputs,
    expected: Logits,
    rounding: Rounding,
    *,
    batch_size: int,
    source: Literal["data", "random"],
) -> Proof:
    """Compare the composed stages with the full model: first with every sample in every stage, then while samples exit.

    Args:
        sessions: the stages, opened with the same optimisation as the full model, because two optimisation levels of
            ONNX Runtime round int8 differently.
        stages: their specifications.
        samples: input name -> [N, ...].
        expected: logits of the full model on `samples`.
        rounding: reduced types of the full model.
        batch_size: samples per batch.
        source: where the samples come from.

    Raises CompileError if an exit differs by more than the tolerance.

    """
    errors = {}
    absolute = _absolute(expected, _TOLERANCE, rounding)
    for name, found in staged_logits(sessions, stages, samples, batch_size=batch_size).items():
        _require_equal(found, expected[name], absolute, f"the stages differ from the full model at exit '{name}'")
        errors[name] = float(np.abs(found - expected[name]).max())

    count = len(next(iter(expected.values())))
    rows = np.arange(min(SHRINKING_BATCH, count))
    few = {name: array[rows] for name, array in samples.items()}
    tolerance = shrinking_tolerance(expected, rounding)
    for stage, run in zip(stages, run_stages(sessions, stages, few, shrink=True), strict=True):
        name = stage.exit.name
        _require_equal(run.logits, expected[name][rows], tolerance, _MIXES.format(name))
        rows = rows[1::2] if len(rows) > 1 else rows
    return Proof(
        samples=count,
        source=source,
        runtime=f"onnxruntime {ort.__version__}",
        absolute_tolerance=absolute,
        relative_tolerance=_TOLERANCE,
        max_absolute_error=errors,
    )


def _absolute(logits: Logits, tolerance: float, rounding: Rounding) -> float:
    """Return the absolute tolerance for a run with an unchanged batch size; `tolerance` is that of fp32."""
    return max(tolerance, FP16_TOLERANCE * largest_logit(logits)) if rounding.fp16 else tolerance


def shrinking_tolerance(logits: Logits, rounding: Rounding) -> float:
    """Return the absolute tolerance for a run in which samples exit."""
    absolute = _absolute(logits, _TOLERANCE, rounding)
    return max(absolute, QUANTISED_TOLERANCE * largest_logit(logits)) if rounding.quantised else absolute


def largest_logit(logits: Logits) -> float:
    """Return the largest absolute value of any logit."""
    return max(float(np.abs(array).max()) for array in logits.values())


def _require_equal(
    found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], absolute: float, message: str
) -> None:
    """Raise CompileError, which starts with `message`, for a difference above the tolerance."""
    if not within(found, expected, absolute, _TOLERANCE):
        raise CompileError(
            f"{message} (largest difference {max_difference(found, expected):.3g}, tolerance {absolute:g})"
        )


def max_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference, infinite for different shapes."""
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def within(found: npt.NDArray[Any], expected: npt.NDArray[Any], absolute: float, relative: float) -> bool:
    """Return True if every element is within the absolute plus the relative tolerance."""
    return found.shape == expected.shape and bool(
        (np.abs(found - expected) <= absolute + relative * np.abs(expected)).all()
    )
