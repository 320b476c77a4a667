"""A complete kind of policy outside the package: its policy, its fitting kind, and their two registrations.

`scaled` multiplies the confidence of each exit by a factor that is learned: the exit's accuracy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from edgeexit.fitting import FittingKind, ReadoutDataset, register_fitting_kind
from edgeexit.fitting.kinds import registry as fitting_registry
from edgeexit.fitting.kinds.unfitted import unfitted_variants
from edgeexit.fitting.options import CandidateOptions
from edgeexit.policies import Policy, register_policy
from edgeexit.policies import registry as policy_registry
from edgeexit.policies.fields import require_length, require_positive
from edgeexit.policies.readout import P1, Array


class Scaled(Policy, frozen=True, kw_only=True, tag="scaled"):
    """Exit at the first exit k with factors_k * p(1) >= t_k."""

    factors: tuple[float, ...]
    """[K] above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_length("factors", self.factors, self.exits)
        require_positive("factors", self.factors)

    @property
    def score_limits(self) -> tuple[float, ...]:
        return self.factors

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        return readout[:, P1] * np.float32(self.factors[exit_index]), state


def scaled_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Scaled, ...]:
    accuracy = 1 - dataset.losses(dataset.exit_predictions).mean(axis=0)
    factors = tuple(max(round(float(value), 6), 1e-3) for value in accuracy)
    return unfitted_variants(Scaled, dataset, options, factors=factors)


KIND = FittingKind(
    policy=Scaled,
    summary="confidence times the accuracy of the exit",
    learns=("temperatures", "factors"),
    make_candidates=scaled_candidates,
)


@contextmanager
def new_kind() -> Iterator[FittingKind]:
    """Register `scaled` while the block runs."""
    register_policy(Scaled)
    register_fitting_kind(KIND)
    try:
        yield KIND
    finally:
        del policy_registry._classes[KIND.name]
        del fitting_registry._kinds[KIND.name]
