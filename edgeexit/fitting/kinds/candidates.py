"""Candidates: policies of one kind that lack only their thresholds."""

from edgeexit.fitting.kinds.registry import require_fitting_kind
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.temperature import base_variant
from edgeexit.policies import Policy


def make_candidates(kind: str, dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Policy, ...]:
    """Return at least one policy of `kind` whose thresholds are all None.

    A fit chooses thresholds for every candidate and takes the candidate that does best on the choosing samples, the
    first one among equals. A candidate reads readouts under its own temperatures: `dataset.at(candidate.temperatures)`.
    The kind gets the dataset under base temperatures, unless the options keep those of the dataset.

    Raises FittingError for an unknown kind, or for a dataset that the kind cannot be fitted on.
    """
    found = require_fitting_kind(kind)
    return found.make_candidates(base_variant(dataset, fit=options.temperatures), options)
