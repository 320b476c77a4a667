"""MSDNet's budgeted batch classification: confidence, with a geometric distribution of exits."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from edgeexit.fitting.evidence import Evidence
from edgeexit.fitting.shares import shares_within_budget, thresholds_for_shares
from edgeexit.policies import Confidence, simulate

_STEEPEST = 40.0
"""Logarithm of the ratio between one exit's share and the next beyond which all samples leave at one exit."""


def msdnet_policy(evidence: Evidence, budget: float) -> Confidence:
    """Return confidence whose exits take shares proportional to 1, r, r^2, ..., as many as the mean cost allows.

    The paper has q_k = z (1 - q)^(k-1) q, with q solved for the budget; its authors let r = 1 - q go beyond 1, so that
    budgets near the full cost can be used. Where rounding shares down to whole samples costs more than the budget, the
    deepest ones step back. Raises FittingError for a budget below the cost of the first exit.

    Source: Huang et al., ICLR 2018 ("Budgeted batch classification"), without its ensembles of exits.
    """
    costs = np.asarray(evidence.costs)
    depths = np.arange(evidence.exits)

    def over(log_ratio: float) -> float:
        return float(softmax(log_ratio * depths) @ costs) - budget

    if over(-_STEEPEST) >= 0:
        log_ratio = -_STEEPEST
    elif over(_STEEPEST) <= 0:
        log_ratio = _STEEPEST
    else:
        log_ratio = float(brentq(over, -_STEEPEST, _STEEPEST))
    shares = shares_within_budget(
        [float(share) for share in softmax(log_ratio * depths)], len(evidence), evidence.costs, budget
    )
    untuned = Confidence(temperatures=evidence.temperatures, thresholds=(None,) * (evidence.exits - 1))
    scores = simulate(untuned, evidence.readouts).scores
    return Confidence(temperatures=evidence.temperatures, thresholds=thresholds_for_shares(scores, shares))
