"""MSDNet's budgeted batch classification: confidence, with a geometric distribution of exits."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from edgeexit.fitting.exit_fractions import fractions_within_budget, thresholds_for_fractions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import simulate
from edgeexit.policies.confidence import Confidence

_STEEPEST = 40.0
"""Logarithm of the ratio between one exit's share and the next beyond which all samples leave at one exit."""


def msdnet_policy(dataset: ReadoutDataset, budget: float) -> Confidence:
    """Return confidence whose exits take shares proportional to 1, r, r^2, ..., as many as the mean cost allows.

    The paper has q_k = z (1 - q)^(k-1) q, with q solved for the budget; its authors let r = 1 - q go beyond 1, so that
    budgets near the full cost can be used. Where rounding shares down to whole samples costs more than the budget, the
    deepest ones step back. Raises FittingError for a budget below the cost of the first exit.

    Source: Huang et al., ICLR 2018 ("Budgeted batch classification"), without its ensembles of exits.
    """
    costs = np.asarray(dataset.costs)
    depths = np.arange(dataset.exits)

    def over(log_ratio: float) -> float:
        return float(softmax(log_ratio * depths) @ costs) - budget

    if over(-_STEEPEST) >= 0:
        log_ratio = -_STEEPEST
    elif over(_STEEPEST) <= 0:
        log_ratio = _STEEPEST
    else:
        log_ratio = float(brentq(over, -_STEEPEST, _STEEPEST))
    fractions = fractions_within_budget(
        [float(fraction) for fraction in softmax(log_ratio * depths)], len(dataset), dataset.costs, budget
    )
    untuned = Confidence(temperatures=dataset.temperatures, thresholds=(None,) * (dataset.exits - 1))
    scores = simulate(untuned, dataset.readouts).scores
    return Confidence(temperatures=dataset.temperatures, thresholds=thresholds_for_fractions(scores, fractions))
