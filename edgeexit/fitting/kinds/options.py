"""What a user may say about how templates are made."""

import msgspec


class CandidateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The same for all kinds; a kind reads what concerns it."""

    budget: float
    """Mean cost that the policy is meant for, in the unit of the costs: EENet learns for one."""
    temperatures: bool = True
    """Whether temperatures may be fitted; else those of the evidence stay."""
    weights: str | tuple[float, ...] = "accuracy"
    """BEEM: `accuracy` (BEEM-A), `cost` (BEEM-C) or [K] weights of one's own."""
    seed: int = 0
