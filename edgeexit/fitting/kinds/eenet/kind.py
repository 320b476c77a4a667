"""The candidates of EENet, and the paper's own method."""

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting.exit_fractions import fractions_within_budget, thresholds_for_fractions
from edgeexit.fitting.kinds.eenet.examples import examples_of
from edgeexit.fitting.kinds.eenet.scoring import initial_weights
from edgeexit.fitting.kinds.eenet.training import train, with_weights
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.fitting.temperature import temperature_variants
from edgeexit.policies.eenet import Eenet


def eenet_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Eenet, ...]:
    """Return EENet untrained and trained for a budget, each under fitted and under base temperatures.

    The untrained ones come first. Their scores equal confidence's, so that EENet is never worse than confidence on the
    choosing samples, and a trained scoring function must do better. Raises FittingError for readouts without
    probabilities.
    """
    untrained, trained = [], []
    for variant in temperature_variants(dataset, fit=options.temperatures):
        examples = examples_of(variant)
        untrained.append(with_weights(variant, initial_weights(variant.exits, examples.classes)))
        trained.append(with_weights(variant, train(examples, variant.costs, options.budget, seed=options.seed).weights))
    return (*untrained, *trained)


def eenet_policy(dataset: ReadoutDataset, budget: float, *, seed: int = 0) -> Eenet:
    """Return EENet with the scores and the exit fractions that it learns for a mean cost of `budget`.

    Losses, initial values and loss weights are those of the paper and of the authors' code. Four parts differ:

    * Fractions come from stick-breaking, because the softmax in their code cannot reach every budget.
    * The optimiser is L-BFGS, because Adam with their settings does not reach budgets above half of the full cost.
    * The penalty pulls scores towards their initial values, because weight decay, run to convergence, is less accurate.
    * The assignment function has half as many hidden units as inputs, as in their code, only up to about 180 classes.
      Beyond that the number is limited (`hidden_units`), because its square would exceed the memory.

    Each fraction is rounded down to a number of samples; where that exceeds the budget, samples move to earlier exits.
    Raises FittingError for a budget below the cost of the first exit, and for readouts without probabilities.

    Source: EENet (Ilhan et al., WACV 2024, arXiv:2301.07099); settings from the authors' code.
    """
    if budget < dataset.costs[0]:
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {dataset.costs[0]:g}"
        )
    examples = examples_of(dataset)
    trained = train(examples, dataset.costs, budget, seed=seed)
    candidate = with_weights(dataset, trained.weights)
    fractions = fractions_within_budget(trained.fractions(examples), len(dataset), dataset.costs, budget)
    thresholds = thresholds_for_fractions(replay(candidate, dataset).scores, fractions)
    return msgspec.structs.replace(candidate, thresholds=thresholds)


KIND = FittingKind(
    policy=Eenet,
    summary="linear in probabilities, confidence, entropy and the scores of earlier exits",
    learns=("temperatures", "weights of the score (for a budget)"),
    source="EENet (Ilhan et al., WACV 2024)",
    make_candidates=eenet_candidates,
    learns_for_budget=True,
    published=PublishedMethod(name="EENet", parameter="budget", fit=eenet_policy),
)
