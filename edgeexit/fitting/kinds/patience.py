"""How `patience` is fitted, and PABEE's one patience for all exits."""

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.policies import exits_of
from edgeexit.policies.patience import Patience


def patience_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Patience]:  # noqa: ARG001 - no options
    """Return patience under the dataset's temperatures: it reads classes only, which temperatures do not change."""
    return (unfitted(Patience, dataset),)


def pabee_policy(dataset: ReadoutDataset, budget: float) -> Patience:
    """Return patience with the largest threshold, the same at all exits, whose mean cost is at most `budget`.

    More patience costs more and, as the paper finds, is more accurate in general. Patience K - 1 is the full model.
    Raises FittingError if even a patience of 1 costs more than the budget.

    Source: "BERT Loses Patience" (Zhou et al., NeurIPS 2020).
    """
    early = dataset.exits - 1
    candidate = unfitted(Patience, dataset)
    scores = replay(candidate, dataset).scores
    for patience in range(early, 0, -1):
        thresholds = tuple(float(patience) if k >= patience else None for k in range(early))  # unreachable before that
        mean_cost = float(sum(dataset.costs[k] for k in exits_of(scores, thresholds)) / len(scores))
        if mean_cost <= budget:
            return msgspec.structs.replace(candidate, thresholds=thresholds)
    raise FittingError(f"a mean cost of {budget:g} cannot be reached: a patience of 1 costs {mean_cost:g}")


KIND = FittingKind(
    policy=Patience,
    summary="number of exits directly before this one with the same prediction",
    source="PABEE (Zhou et al., NeurIPS 2020), which has one threshold for all exits",
    make_candidates=patience_candidates,
    published=PublishedMethod(name="PABEE", parameter="budget", fit=pabee_policy),
)
