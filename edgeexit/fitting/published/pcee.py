"""PCEE's own threshold: the accuracy that is asked for, the same at all exits."""

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds import CandidateOptions
from edgeexit.fitting.kinds.pcee import pcee_candidates
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies.pcee import Pcee


def pcee_rule(dataset: ReadoutDataset, delta: float) -> Pcee:
    """Return PCEE that leaves where samples as sure as this one were right at a rate of at least `delta`.

    Raises FittingError for a `delta` that is not between 0 and 1.

    Source: Mofakhami et al., arXiv:2412.19325.
    """
    if not 0 <= delta <= 1:
        raise FittingError(f"delta {delta:g} must lie between 0 and 1, e.g. 0.9")
    options = CandidateOptions(budget=dataset.costs[-1], temperatures=False)
    candidate = pcee_candidates(dataset, options)[0]
    return msgspec.structs.replace(candidate, thresholds=(float(delta),) * (dataset.exits - 1))
