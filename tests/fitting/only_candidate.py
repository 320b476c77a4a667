"""The single candidate of a kind, without fitted temperatures."""

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.kinds import make_candidates
from edgeexit.fitting.options import CandidateOptions
from edgeexit.policies import Policy

PLAIN = CandidateOptions(budget=2.0, temperatures=False)


def only_candidate(kind: str, dataset: ReadoutDataset, options: CandidateOptions = PLAIN) -> Policy:
    """Return the candidate of a kind that has exactly one under these options."""
    (candidate,) = make_candidates(kind, dataset, options)
    return candidate
