"""What is guaranteed to a cohort, and when its policy changes: the terms of `guarantee`."""

from typing import Final

import msgspec

from edgeexit.policies.document import Loss

DEFAULT_MIN_GAIN: Final = 0.03
NO_GAIN: Final = 1.0
"""A `min_gain` that no policy has: the policy becomes neither bolder nor safer."""


class GuaranteeRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is guaranteed to a cohort, and how eagerly its policy changes."""

    risk: float
    """Upper bound on the expected loss."""
    loss: Loss = "disagreement"
    delta: float
    """Maximum probability that any policy of an epoch exceeds it."""
    costs: tuple[float, ...]
    """[K] cumulative cost of each exit."""
    alpha: float = 0.01
    """Maximum probability that an epoch ends by a false alarm."""
    tolerated_devices: int = 0
    """Number of devices whose audits certify nothing alone; less than half of the devices."""
    tolerated_in_alarms: int = 0
    """Number of devices whose audits raise no alarm alone."""
    min_gain: float = DEFAULT_MIN_GAIN
    """Part of the cost that a bolder policy must save."""
    budget: float | None = None
    """Mean cost, in the unit of the costs, within which the safest policy is wanted; None: the cheapest one is."""
    min_final_exits: float = 0.0
    """Fraction of the samples that must at least reach the final exit."""
    frozen: bool = False
    """Whether the policy changes after an alarm only."""
    max_changes_per_day: int = 24
    """Maximum number of bolder policies in a day; whoever calls `advance` counts them."""
    set_aside: tuple[int, ...] = ()
    """Ids of the devices whose audits do not count, in ascending order."""
    first_path: int = 64
    """Audits of an epoch from which its first own path is chosen."""
    path_growth: int = 4
    """Factor of the number of audits from one path to the next."""
    max_path_audits: int = 20_000
    """A path is chosen from at most so many audits, the newest ones."""
