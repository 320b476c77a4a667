"""PABEE's patience: one for all exits."""

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.patience import Patience


def pabee_policy(dataset: ReadoutDataset, budget: float) -> Patience:
    """Return patience with the largest one, the same at all exits, whose mean cost is at most `budget`.

    More patience costs more and, the paper finds, is by and large more accurate. Patience K - 1 is the whole model.
    Raises FittingError where even a patience of 1 costs more than the budget.

    Source: "BERT Loses Patience" (Zhou et al., NeurIPS 2020).
    """
    early = dataset.exits - 1
    candidate = Patience(temperatures=dataset.temperatures, thresholds=(None,) * early)
    scores = simulate(candidate, dataset.readouts).scores
    for patience in range(early, 0, -1):
        thresholds = tuple(float(patience) if k >= patience else None for k in range(early))  # no sooner than possible
        mean_cost = float(sum(dataset.costs[k] for k in exits_of(scores, thresholds)) / len(scores))
        if mean_cost <= budget:
            return msgspec.structs.replace(candidate, thresholds=thresholds)
    raise FittingError(f"a mean cost of {budget:g} cannot be reached: a patience of 1 costs {mean_cost:g}")
