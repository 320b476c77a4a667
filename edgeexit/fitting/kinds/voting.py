"""How `voting` is fitted: it reads classes only, which temperatures do not change."""

from edgeexit.fitting.kinds.kind import FittingKind
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies.voting import Voting


def voting_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Voting]:  # noqa: ARG001 - no options
    """Return voting under the dataset's temperatures."""
    return (unfitted(Voting, dataset),)


KIND = FittingKind(
    policy=Voting,
    summary="fraction of the exits so far that predict the modal class; that class is the prediction",
    source="Sun et al., 2021",
    make_candidates=voting_candidates,
)
