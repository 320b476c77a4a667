"""Compares the logits of a backend with the golden samples of the bundle."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Precision
from edgeexit.errors import EngineError

_TOLERANCE: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}
"""Max error of a logit, as a fraction of the largest |golden logit| of the exit, or of 1 if that is larger.

Logits differ because kernels sum in different orders, and a sum near the middle of two steps may then be rounded up or
down, to 11 bits in fp16 and to one of 256 values in int8.

Measured on ResNet-56 with CIFAR-10, over sets of 8 samples: fp16 logits differ by up to 1 % from those of the same
graph computed in float32; two correct executions of the same int8 graph (ONNX Runtime with and without its
optimizations) differ by up to 16 %, in 3 % of the sets by more than 10 %. A model with other weights differs by as much
as the logits themselves."""


class ExitCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of comparing the logits of one exit with the golden logits."""

    exit: str
    samples: int
    max_error: float
    """Largest |logit - golden logit|."""
    tolerance: float
    """Max accepted `max_error`."""
    agreement: float
    """Fraction of predictions (of pixels, for segmentation) that equal the golden top-1 class."""


def check_exit(
    exit_name: str, expected: npt.NDArray[np.float32], found: npt.NDArray[Any], precision: Precision
) -> ExitCheck:
    """Compare the logits `found` [N, C, ...] of an exit with the golden logits `expected` [N, C, ...].

    Raises EngineError for another shape, if a logit differs by more than the tolerance of the precision, and if a top-1
    class differs although the two largest golden logits differ by more than the tolerance.
    """
    if found.shape != expected.shape:
        raise EngineError(
            f"exit '{exit_name}' has shape {found.shape}, but its golden logits have {expected.shape}; compile the "
            "bundle again"
        )
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
            f"exit '{exit_name}' differs from the golden samples by up to {error:.3g}, but {precision} allows only "
            f"{tolerance:.3g}; the top-1 class agrees for {same.mean():.1%} of the predictions"
        )
    top2 = np.partition(golden, -2, axis=1)
    wrong = ~same & (np.take(top2, -1, axis=1) - np.take(top2, -2, axis=1) > tolerance)
    if wrong.any():
        raise EngineError(
            f"exit '{exit_name}' predicts another class than the golden samples for {wrong.mean():.1%} of the "
            f"predictions, although the two largest golden logits differ by more than {tolerance:.3g}, the tolerance "
            f"of {precision}"
        )
    return check
