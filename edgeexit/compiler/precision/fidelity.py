"""What a precision costs: per exit, how often it answers as in fp32, and how often it is right."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import ExitFidelity, Fidelity
from edgeexit.datasets import counts_of

_DIGITS = 9  # 1 - 0.99 is above 0.01 in binary

Predictions = Mapping[str, npt.NDArray[np.float32]]
"""Exit name -> logits [N, C], or [N, C, H, W] to segment."""


def measure_fidelity(whole: Predictions, reduced: Predictions, *, labels: npt.NDArray[np.int64] | None) -> Fidelity:
    """Compare the answers (argmax over axis 1) of a reduced model with those in fp32 on the same samples.

    Args:
        whole: logits in fp32.
        reduced: logits as shipped, of the same exits and shapes.
        labels: [N], or [N, H, W] to segment; pixels that do not count are left out of the accuracies.

    """
    exits = {}
    for name, logits in whole.items():
        expected, found = logits.argmax(axis=1), reduced[name].argmax(axis=1)
        right = right_fp32 = None
        if labels is not None and (counts := counts_of(labels)).any():
            right, right_fp32 = (float((answer == labels)[counts].mean()) for answer in (found, expected))
        exits[name] = ExitFidelity(
            agreement=float((found == expected).mean()), accuracy=right, accuracy_fp32=right_fp32
        )
    return Fidelity(samples=len(next(iter(whole.values()))), exits=exits)


def losses(fidelity: Fidelity, most: float = 0.01) -> list[str]:
    """Return a line for every exit that lost more than the share `most`.

    Lost is the accuracy that is missing to fp32's, or without labels the share of answers that are other than fp32's.
    """
    return [
        f"exit '{name}' {_what(exit_)} on {fidelity.samples} samples; keep sensitive nodes in fp32 with --keep-fp32, "
        "give more calibration data, or take another precision"
        for name, exit_ in fidelity.exits.items()
        if round(_lost(exit_), _DIGITS) > most
    ]


def _lost(exit_: ExitFidelity) -> float:
    if exit_.accuracy is None or exit_.accuracy_fp32 is None:
        return 1 - exit_.agreement
    return exit_.accuracy_fp32 - exit_.accuracy


def _what(exit_: ExitFidelity) -> str:
    if exit_.accuracy is None or exit_.accuracy_fp32 is None:
        return f"answers other than in fp32 in {100 * (1 - exit_.agreement):.1f} % of cases"
    return f"is right in {100 * exit_.accuracy:.1f} % of cases where fp32 is in {100 * exit_.accuracy_fp32:.1f} %"
