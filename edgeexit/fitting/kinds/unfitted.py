"""Policies without thresholds: the candidates that kinds return."""

from typing import Any, TypeVar

from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.temperature import temperature_variants
from edgeexit.policies import Policy

P = TypeVar("P", bound=Policy)


def unfitted(policy: type[P], dataset: ReadoutDataset, **fields: Any) -> P:
    """Return a policy whose thresholds are all None, under the dataset's temperatures; `fields` are the kind's own."""
    return policy(temperatures=dataset.temperatures, thresholds=(None,) * (dataset.exits - 1), **fields)


def unfitted_variants(
    policy: type[P], dataset: ReadoutDataset, options: CandidateOptions, **fields: Any
) -> tuple[P, ...]:
    """Return the policy under fitted temperatures, where they may be fitted, and under base temperatures."""
    return tuple(
        unfitted(policy, variant, **fields) for variant in temperature_variants(dataset, fit=options.temperatures)
    )
