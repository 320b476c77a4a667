"""Whether a plan answers as the bundle says it should."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Precision
from edgeexit.errors import EngineError

_TOLERANCE: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}
"""Largest error, as a share of the exit's largest logit (at least 1): other kernels sum in another order, and where
values are rounded to 11 bits or to 256 steps a sum may fall on either side.

Measured on ResNet-56 with CIFAR-10, over sets of 8 samples: true float16 against float16 that is computed in float32 is
up to 1 % off; two right ways to run the same int8 graph (ONNX Runtime with and without its optimisations) up to 16 %,
3 % of the sets by more than 10 %. A plan of other weights is off by the logits themselves."""


class ExitCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One exit on the golden samples."""

    exit: str
    samples: int
    max_error: float
    """Largest |plan - golden| of the logits."""
    tolerance: float
    agreement: float
    """Share of answers (of pixels, to segment) with the golden top-1 class."""


def check_exit(
    exit_name: str, expected: npt.NDArray[np.float32], found: npt.NDArray[Any], precision: Precision
) -> ExitCheck:
    """Compare an exit's logits [N, C, ...] with the golden ones.

    Raises EngineError where they differ by more than the precision explains, or where an answer differs whose golden
    logits are further apart than that.
    """
    if found.shape != expected.shape:
        raise EngineError(f"exit '{exit_name}' is {found.shape} where the golden samples have {expected.shape}")
    golden, plan = expected.astype(np.float64), found.astype(np.float64)
    tolerance = _TOLERANCE[precision] * max(1.0, float(np.abs(golden).max()))
    error = float(np.abs(plan - golden).max()) if np.isfinite(plan).all() else float("inf")
    same = plan.argmax(axis=1) == golden.argmax(axis=1)
    check = ExitCheck(
        exit=exit_name,
        samples=len(golden),
        max_error=error,
        tolerance=tolerance,
        agreement=float(same.mean()),
    )
    if error > tolerance:
        raise EngineError(
            f"exit '{exit_name}' differs from the golden samples by up to {error:.3g} where {precision} explains "
            f"{tolerance:.3g}; top-1 agrees on {same.mean():.1%}"
        )
    top2 = np.partition(golden, -2, axis=1)
    sure = np.take(top2, -1, axis=1) - np.take(top2, -2, axis=1) > tolerance
    if (sure & ~same).any():
        raise EngineError(
            f"exit '{exit_name}' gives another class than the golden samples on {(sure & ~same).mean():.1%} of answers "
            f"that are not close; the largest error is {error:.3g}"
        )
    return check
