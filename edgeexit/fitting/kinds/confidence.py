"""How `confidence` is fitted, and MSDNet's budgeted batch classification."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from edgeexit.fitting.exit_fractions import fractions_within_budget, thresholds_for_fractions
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod
from edgeexit.fitting.kinds.unfitted import unfitted, unfitted_variants
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.policies.confidence import Confidence

_MAX_LOG_RATIO = 40.0
"""Logarithm of the ratio between the fractions of two neighbouring exits beyond which all samples exit at one exit."""


def confidence_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Confidence, ...]:
    """Return confidence under fitted temperatures and under base temperatures."""
    return unfitted_variants(Confidence, dataset, options)


def msdnet_policy(dataset: ReadoutDataset, budget: float) -> Confidence:
    """Return confidence with exit fractions proportional to 1, r, r^2, ..., with r as large as `budget` allows.

    The paper has q_k = z (1 - q)^(k-1) q, with q solved for the budget. The authors' code lets r = 1 - q exceed 1, so
    that budgets near the full cost can be used. Where rounding to whole samples exceeds the budget, samples move from
    the deepest exits to the exits before them. Raises FittingError for a budget below the cost of the first exit.

    Source: Huang et al., ICLR 2018 ("Budgeted batch classification"), without its ensembles of exits.
    """
    costs = np.asarray(dataset.costs)
    depths = np.arange(dataset.exits)

    def excess(log_ratio: float) -> float:
        return float(softmax(log_ratio * depths) @ costs) - budget

    if excess(-_MAX_LOG_RATIO) >= 0:
        log_ratio = -_MAX_LOG_RATIO
    elif excess(_MAX_LOG_RATIO) <= 0:
        log_ratio = _MAX_LOG_RATIO
    else:
        log_ratio = float(brentq(excess, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    fractions = fractions_within_budget(
        [float(fraction) for fraction in softmax(log_ratio * depths)], len(dataset), dataset.costs, budget
    )
    scores = replay(unfitted(Confidence, dataset), dataset).scores
    return Confidence(temperatures=dataset.temperatures, thresholds=thresholds_for_fractions(scores, fractions))


KIND = FittingKind(
    policy=Confidence,
    summary="top-1 probability",
    learns=("temperatures",),
    source="MSDNet (Huang et al., ICLR 2018)",
    make_candidates=confidence_candidates,
    published=PublishedMethod(name="MSDNet", parameter="budget", fit=msdnet_policy),
)
