"""Kinds that learn temperatures and no more (confidence, margin), and those that learn nothing (patience, voting)."""

from typing import Any

from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.temperature import readings
from edgeexit.policies import Policy

_READ_CLASSES_ONLY = ("patience", "voting")
"""No temperature changes the class of an exit, nor what these make of it."""


def plain_candidates(kind: Any, dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Policy, ...]:
    """Return the kind under fitted temperatures and as it is, or only as it is where temperatures change nothing."""
    fit = options.temperatures and str(kind.__struct_config__.tag) not in _READ_CLASSES_ONLY
    return tuple(
        kind(temperatures=read.temperatures, thresholds=(None,) * (read.exits - 1))
        for read in readings(dataset, fit=fit)
    )
