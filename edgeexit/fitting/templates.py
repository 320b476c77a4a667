"""The starting document of each policy kind: temperatures 1, weights from the data, nothing leaves early yet."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.policies import AnyPolicy, Beem, Confidence
from edgeexit.policies.readout import TOP1, Array

Labels = npt.NDArray[np.int64] | None


def make_template(kind: str, readouts: Array, labels: Labels) -> AnyPolicy:
    """Return an unfitted policy of `kind` for readouts [N, K, 4]; labels [N] or None.

    Raises FittingError for a kind that is not known.
    """
    if kind not in _TEMPLATES:
        raise FittingError(f"policy '{kind}' is unknown; there are {', '.join(sorted(_TEMPLATES))}")
    return _TEMPLATES[kind](readouts, labels)


def _confidence(readouts: Array, _labels: Labels) -> Confidence:
    exits = readouts.shape[1]
    return Confidence(temperatures=(1.0,) * exits, thresholds=(None,) * (exits - 1))


def _beem(readouts: Array, labels: Labels) -> Beem:
    """BEEM-A: an exit's weight is its accuracy; without labels the final exit's answer stands in."""
    exits = readouts.shape[1]
    truth = readouts[:, -1, TOP1] if labels is None else labels
    accuracy = (readouts[:, :, TOP1] == truth[:, None]).mean(axis=0)
    # An exit that is never right still needs a weight above 0.
    weights = tuple(round(float(value), 6) for value in np.maximum(accuracy, 1e-3))
    return Beem(temperatures=(1.0,) * exits, thresholds=(None,) * (exits - 1), weights=weights)


_TEMPLATES: dict[str, Callable[[Array, Labels], AnyPolicy]] = {"confidence": _confidence, "beem": _beem}
