"""EENet's own recipe: learned scores, and thresholds for learned shares."""

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting.eenet.scoring import examples_of
from edgeexit.fitting.eenet.training import learn, unfitted
from edgeexit.fitting.evidence import Evidence
from edgeexit.fitting.shares import shares_within_budget, thresholds_for_shares
from edgeexit.policies import Eenet, simulate


def eenet_policy(evidence: Evidence, budget: float, *, seed: int = 0) -> Eenet:
    """Return EENet with the scores and the shares of exits that it learns for a mean cost of `budget`.

    The paper's losses and start, with the authors' weights of the losses and hidden units. Not theirs, since theirs
    cannot reach every budget, are stick-breaking (their code has a softmax) and the search (L-BFGS until it stands;
    their Adam stops short of budgets above half of the full cost). Nor is the hold on scores: decay towards 0, run
    until it stands, gives a weaker rival. Shares are rounded down to whole samples and step back where that costs more
    than the budget. Raises FittingError for a budget below the cost of the first exit, and for readouts without
    probabilities.

    Source: EENet (Ilhan et al., WACV 2024, arXiv:2301.07099); settings from the authors' code.
    """
    if budget < evidence.costs[0]:
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {evidence.costs[0]:g}"
        )
    learned = learn(examples_of(evidence), evidence.costs, budget, seed=seed)
    template = unfitted(evidence, learned.weights)
    shares = shares_within_budget(learned.shares, len(evidence), evidence.costs, budget)
    thresholds = thresholds_for_shares(simulate(template, evidence.readouts).scores, shares)
    return msgspec.structs.replace(template, thresholds=thresholds)
