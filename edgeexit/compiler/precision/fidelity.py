"""Compares the predictions of a reduced-precision model with fp32: agreement and accuracy of each exit."""

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import ExitFidelity, Fidelity
from edgeexit.compiler.exits.run import Logits
from edgeexit.datasets import counted_mask
from edgeexit.formatting import percent

_DIGITS = 9  # because 1 - 0.99 is above 0.01 in binary floating point


def measure_fidelity(fp32: Logits, reduced: Logits, *, labels: npt.NDArray[np.int64] | None) -> Fidelity:
    """Compare the predictions (argmax over axis 1) of a reduced model with those in fp32 on the same samples.

    Args:
        fp32: exit -> logits in fp32, [N, K], or [N, K, H, W] for segmentation.
        reduced: logits of the shipped stages, with the same exits and shapes.
        labels: [N] or [N, H, W]; ignored pixels count in the agreement only. Without labels, no accuracy is measured.

    """
    exits = {}
    for name, logits in fp32.items():
        expected, found = logits.argmax(axis=1), reduced[name].argmax(axis=1)
        accuracy = accuracy_fp32 = None
        if labels is not None and (counted := counted_mask(labels)).any():
            accuracy, accuracy_fp32 = (float((classes == labels)[counted].mean()) for classes in (found, expected))
        exits[name] = ExitFidelity(
            agreement=float((found == expected).mean()), accuracy=accuracy, accuracy_fp32=accuracy_fp32
        )
    return Fidelity(samples=len(next(iter(fp32.values()))), exits=exits)


def loss_warnings(fidelity: Fidelity, max_loss: float = 0.01) -> list[str]:
    """Return a warning for each exit whose loss is greater than the fraction `max_loss`.

    The loss is the accuracy in fp32 minus the accuracy of the shipped stages; without labels, it is the fraction of
    predictions that differ from fp32.
    """
    return [
        f"exit '{name}' {_loss_text(exit_)} on {fidelity.samples} samples; keep sensitive nodes in fp32 with "
        "--keep-fp32, give more calibration data, or choose another precision"
        for name, exit_ in fidelity.exits.items()
        if round(_loss(exit_), _DIGITS) > max_loss
    ]


def _loss(exit_: ExitFidelity) -> float:
    if exit_.accuracy is None or exit_.accuracy_fp32 is None:
        return 1 - exit_.agreement
    return exit_.accuracy_fp32 - exit_.accuracy


def _loss_text(exit_: ExitFidelity) -> str:
    if exit_.accuracy is None or exit_.accuracy_fp32 is None:
        return f"predicts another class than fp32 in {percent(1 - exit_.agreement)} of cases"
    return f"has an accuracy of {percent(exit_.accuracy)}, in fp32 {percent(exit_.accuracy_fp32)},"
