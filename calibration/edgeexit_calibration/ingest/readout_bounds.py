"""The readouts that a device can have: bounds that hold for every softmax, and for averages of softmaxes over pixels.

For segmentation and tagging, a readout is an average over pixels or tokens, and a message does not name the task. So
every bound holds for averages, too: it is linear in p1, p2 and the entropy H, or a convex function of p1 and p2 below
H, or a concave one above. In the following, C is the number of classes.

- Each of the C - 2 other probabilities is at most p2, and p2 is at most p1. So `p1 + p2 <= 1 <= p1 + (C - 1) p2`.
- Sorted distributions are the mixtures of the uniform distributions on the first n classes, n = 1 .. C. H is concave,
  so H >= sum over n of w_n ln n for weights w_n. Then w_1 = p1 - p2, and with m = 1 - w_1 the average of 1/n over
  n >= 2 is p2 / m. By Jensen's inequality `H >= m ln(m / p2)`, with equality where all weights but w_1 are at one n.
- H is highest if the other classes share r = 1 - p1 - p2 equally: `H <= h(p1) + h(p2) + h(r) + r ln(C - 2)`, with
  h(x) = -x ln x.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.policies.readout import ENTROPY, P1, P2, TOP1, Array

MAX_CLASSES: Final = 2**24
"""Stands for an unknown number of classes: class indices are exact in float32 below it."""
_SLACK: Final = 1e-3
"""Error of a probability: above 2^-11, by which float16 rounds numbers near 1."""
_SMALLEST: Final = 1e-6
"""float16 has no accurate numbers below it."""
_FACTOR: Final = 1.001
"""Error of an entropy and of a limit, as a factor."""

_Values = npt.NDArray[np.float64]


class ReadoutFault(NamedTuple):
    """A value of a sample that no device can have."""

    sample: int
    reason: str


def find_faults(
    readouts: Array, classes: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
) -> dict[int, ReadoutFault]:
    """Return the first fault of each audit that has one, by the place of the audit.

    Args:
        readouts: [N, K, 4] readouts of the samples of all audits, finite; p1 and p2 in [0, 1].
        classes: [N] number of classes, or `MAX_CLASSES`.
        starts: [A] index of the first sample of each audit, in ascending order.

    """
    top1, p1, p2, entropy = (readouts[:, :, column].astype(np.float64) for column in (TOP1, P1, P2, ENTROPY))
    count = classes.astype(np.float64)[:, None]
    floor, low, high = _lowest_p2(p1, count), _lowest_entropy(p1, p2), _highest_entropy(p1, p2, count)
    faulty = (top1 >= count) | (p1 * count * _FACTOR < 1) | (p2 > p1 + _SLACK) | (p1 + p2 > 1 + _SLACK)
    faulty |= (p2 < floor) | (entropy < low) | (entropy > high)
    found: dict[int, ReadoutFault] = {}
    for index in np.flatnonzero(faulty.any(axis=1)).tolist():
        audit = int(np.searchsorted(starts, index, side="right")) - 1
        if audit not in found:
            k = int(faulty[index].argmax())
            bounds = (floor[index, k], low[index, k], high[index, k])
            reason = _reason(readouts[index, k].tolist(), int(classes[index]), bounds)
            found[audit] = ReadoutFault(index - int(starts[audit]), f"exit {k}: {reason}")
    return found


def _lowest_p2(p1: _Values, classes: _Values) -> _Values:
    """Return the part of each of the C - 1 other classes if all are equal."""
    return np.asarray((1 - p1 - _SLACK) / (classes - 1) - _SMALLEST)


def _lowest_entropy(p1: _Values, p2: _Values) -> _Values:
    """Return m ln(m / p2), which rises with m and falls with p2, for the lowest m and the highest p2 within the error.

    There are many classes of probability p2 if m is far above it, and one if both are equal.
    """
    second = p2 + _SLACK
    rest = np.maximum(1 - p1 + p2 - 2 * _SLACK, second)
    return np.asarray(rest * np.log(rest / second) / _FACTOR - _SLACK)


def _highest_entropy(p1: _Values, p2: _Values, classes: _Values) -> _Values:
    """Return the highest entropy; h changes by at most h(d) if its argument changes by d, and r by 2 `_SLACK`."""
    rest = np.maximum(1 - p1 - p2, 0)
    others = np.log(np.maximum(classes - 2, 1))
    slack = 2 * _spread(np.float64(_SLACK)) + _spread(np.float64(2 * _SLACK)) + 2 * _SLACK * others
    return np.asarray((_spread(p1) + _spread(p2) + _spread(rest) + rest * others + slack) * _FACTOR)


def _spread(values: _Values | np.float64) -> _Values:
    """Return h(x) = -x ln x, with h(0) = 0."""
    return np.asarray(-values * np.log(np.maximum(values, np.finfo(np.float64).tiny)))


def _reason(readout: list[float], classes: int, bounds: tuple[float, float, float]) -> str:
    """Return what is wrong with the readout [4] of one exit that has a fault."""
    top1, p1, p2, entropy = readout[TOP1], readout[P1], readout[P2], readout[ENTROPY]
    floor, low, high = bounds
    of_classes = "" if classes == MAX_CLASSES else f" of {classes} classes"
    if top1 >= classes:
        return f"class {top1:.0f}, but the model has {classes} classes"
    if p1 * classes * _FACTOR < 1:
        return f"p1 {p1:g} is the highest probability{of_classes}, so it is at least {1 / classes:g}"
    if p2 > p1 + _SLACK:
        return f"p2 {p2:g} is above p1 {p1:g}"
    if p1 + p2 > 1 + _SLACK:
        return f"p1 {p1:g} and p2 {p2:g} have a sum above 1"
    if p2 < floor:
        return f"p2 {p2:g} is impossible with p1 {p1:g}{of_classes}; at least {floor:g} is possible"
    limit = f"at least {low:g}" if entropy < low else f"at most {high:g}"
    return f"entropy {entropy:g} is impossible with p1 {p1:g} and p2 {p2:g}{of_classes}; {limit} is possible"
