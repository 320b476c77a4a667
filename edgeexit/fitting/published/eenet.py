"""EENet's own recipe: learned scores, and thresholds for learned shares."""

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting.eenet.scoring import examples_of
from edgeexit.fitting.eenet.training import learn, unfitted
from edgeexit.fitting.exit_fractions import fractions_within_budget, thresholds_for_fractions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import simulate
from edgeexit.policies.eenet import Eenet


def eenet_policy(dataset: ReadoutDataset, budget: float, *, seed: int = 0) -> Eenet:
    """Return EENet with the scores and the shares of exits that it learns for a mean cost of `budget`.

    The paper's losses and start, with the authors' weights of the losses and hidden units. Not theirs, since theirs
    cannot reach every budget, are stick-breaking (their code has a softmax) and the search (L-BFGS until it stands;
    their Adam stops short of budgets above half of the full cost). Nor is the hold on scores: decay towards 0, run
    until it stands, gives a weaker rival. Shares are rounded down to whole samples and step back where that costs more
    than the budget. Raises FittingError for a budget below the cost of the first exit, and for readouts without
    probabilities.

    Source: EENet (Ilhan et al., WACV 2024, arXiv:2301.07099); settings from the authors' code.
    """
    if budget < dataset.costs[0]:
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {dataset.costs[0]:g}"
        )
    learned = learn(examples_of(dataset), dataset.costs, budget, seed=seed)
    candidate = unfitted(dataset, learned.weights)
    fractions = fractions_within_budget(learned.fractions, len(dataset), dataset.costs, budget)
    thresholds = thresholds_for_fractions(simulate(candidate, dataset.readouts).scores, fractions)
    return msgspec.structs.replace(candidate, thresholds=thresholds)
