"""Compares the logits of a backend with the golden samples of the bundle."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Precision
from edgeexit.errors import EngineError

_TOLERANCE: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}
"""Largest accepted error, as a fraction of the exit's largest logit (at least 1). Kernels sum in different orders, and
a sum that is rounded to 11 bits or to 256 steps may fall on either side.

Measured on ResNet-56 with CIFAR-10, over sets of 8 samples: float16 differs from float16 computed in float32 by up to
1 %; two correct executions of the same int8 graph (ONNX Runtime with and without its optimizations) differ by up to
16 %, in 3 % of the sets by more than 10 %. A model with other weights differs by as much as the logits themselves."""


class ExitCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The logits of one exit, compared on the golden samples."""

    exit: str
    samples: int
    max_error: float
    """Largest |logit - golden logit|."""
    tolerance: float
    agreement: float
    """Fraction of predictions (of pixels, for segmentation) that equal the golden top-1 class."""


def check_exit(
    exit_name: str, expected: npt.NDArray[np.float32], found: npt.NDArray[Any], precision: Precision
) -> ExitCheck:
    """Compare an exit's logits [N, C, ...] with the golden ones.

    Raises EngineError if a logit differs by more than the precision explains, or if a top-1 class differs although the
    two largest golden logits are further apart than that.
    """
    if found.shape != expected.shape:
        raise EngineError(f"exit '{exit_name}' has shape {found.shape}, the golden samples have {expected.shape}")
    golden, logits = expected.astype(np.float64), found.astype(np.float64)
    tolerance = _TOLERANCE[precision] * max(1.0, float(np.abs(golden).max()))
    error = float(np.abs(logits - golden).max()) if np.isfinite(logits).all() else float("inf")
    same = logits.argmax(axis=1) == golden.argmax(axis=1)
    check = ExitCheck(
        exit=exit_name,
        samples=len(golden),
        max_error=error,
        tolerance=tolerance,
        agreement=float(same.mean()),
    )
    if error > tolerance:
        raise EngineError(
            f"exit '{exit_name}' differs from the golden samples by up to {error:.3g}, but {precision} explains only "
            f"{tolerance:.3g}; top-1 agrees on {same.mean():.1%}"
        )
    top2 = np.partition(golden, -2, axis=1)
    sure = np.take(top2, -1, axis=1) - np.take(top2, -2, axis=1) > tolerance
    if (sure & ~same).any():
        raise EngineError(
            f"exit '{exit_name}' predicts another class than the golden samples for {(sure & ~same).mean():.1%} of the "
            f"predictions whose logits are not close; the largest error is {error:.3g}"
        )
    return check
