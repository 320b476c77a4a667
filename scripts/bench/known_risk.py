"""Simulated audits of a data distribution under which the risk and the cost of any thresholds are known exactly.

The scores of the exits are independent and uniform in [0, 1]. At exit k, a sample with score s differs from the final
exit with probability h_k (1 - s)^a_k. So with thresholds t_k, and with r_k = t_0 ... t_{k-1} (the probability that exit
k is reached), the risk is the sum over exits k of r_k h_k (1 - t_k)^(a_k + 1) / (a_k + 1).
"""

from typing import Final, NamedTuple

import numpy as np
from edgeexit_calibration.recalibrate.audits import Audits

from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import Array

COSTS: Final = (1.0, 2.0, 3.0)
FULL_DEPTH: Final = Confidence(temperatures=(1.0,) * len(COSTS), thresholds=(None,) * (len(COSTS) - 1))


class Difficulty(NamedTuple):
    """How often the early exits differ from the final one."""

    rates: tuple[float, ...]
    """[K-1] h_k, the probability of a difference at score 0."""
    powers: tuple[float, ...]
    """[K-1] a_k, how fast it falls with the score."""

    def draw(self, samples: int, random: np.random.Generator) -> Array:
        """Return readouts [n, K, 4] float32."""
        exits = len(COSTS)
        scores = random.random((samples, exits), dtype=np.float32)
        chances = np.array(self.rates) * (1 - scores[:, :-1]) ** np.array(self.powers)
        readouts = np.zeros((samples, exits, 4), dtype=np.float32)
        readouts[:, :-1, 0] = random.random((samples, exits - 1)) < chances
        readouts[:, :, 1] = scores
        return readouts

    def risk(self, thresholds: Thresholds) -> float:
        """Return the exact risk of thresholds."""
        risk, reached = 0.0, 1.0
        for rate, power, given in zip(self.rates, self.powers, thresholds, strict=True):
            threshold = _limited(given)
            risk += reached * rate * (1 - threshold) ** (power + 1) / (power + 1)
            reached *= threshold
        return risk


def cost(thresholds: Thresholds) -> float:
    """Return the exact mean cost of thresholds, as a fraction of full depth; it does not depend on the difficulty."""
    total, reached = 0.0, 1.0
    for own, given in zip(COSTS, [*thresholds, 0.0], strict=True):
        threshold = _limited(given)
        total += own * reached * (1 - threshold)
        reached *= threshold
    return total / COSTS[-1]


def audits_of(readouts: Array, devices: np.ndarray, *, after: int) -> Audits:
    """Return audits with consecutive ids after `after`."""
    return Audits(np.arange(after + 1, after + 1 + len(readouts)), devices, readouts)


def _limited(threshold: float | None) -> float:
    return 1.0 if threshold is None else min(max(threshold, 0.0), 1.0)
