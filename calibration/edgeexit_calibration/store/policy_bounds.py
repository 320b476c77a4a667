"""The bounds that a user sets on what the calibrator may do with the policy of a cohort by itself."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit_calibration.store.tables import PolicyBoundsRow


class BoundsError(EdgeExitError):
    """A bound is outside its range, or belongs to no registered cohort."""


class PolicyBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the calibrator may do by itself. Stepping back after an alarm has no bound.

    Raises BoundsError for a value outside its range.
    """

    frozen: bool = False
    """Whether the policy stays as it is until an alarm."""
    min_final_exits: float = 0.0
    """Fraction of the samples that must at least reach the final exit, 0 to 1."""
    max_changes_per_day: int | None = None
    """Bolder policies in a day; null: the number of the service."""
    min_gain: float | None = None
    """Part of the cost that a bolder policy must save, between 0 and 1; null: the calibrator's own."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_final_exits <= 1:
            raise BoundsError(
                f"--min-final-exits {self.min_final_exits:g} must be a fraction between 0 and 1, e.g. 0.2 for 20 % of "
                "the samples"
            )
        if self.max_changes_per_day is not None and self.max_changes_per_day < 0:
            raise BoundsError(
                f"--max-changes-per-day {self.max_changes_per_day} must be 0 or more; 0: no bolder policy"
            )
        if self.min_gain is not None and not 0 < self.min_gain < 1:
            raise BoundsError(
                f"--min-gain {self.min_gain:g} must be a fraction between 0 and 1, e.g. 0.05 for 5 % of the cost"
            )


class StoredBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a cohort, and who set them."""

    bounds: PolicyBounds
    set_by: str
    set_at: datetime


def read_bounds(session: Session, cohort_id: int) -> StoredBounds | None:
    """Return the bounds of a cohort, or None if no user has set any."""
    row = session.get(PolicyBoundsRow, cohort_id)
    if row is None:
        return None
    bounds = PolicyBounds(**{name: getattr(row, name) for name in PolicyBounds.__struct_fields__})
    return StoredBounds(bounds=bounds, set_by=row.set_by, set_at=row.set_at)


def write_bounds(session: Session, cohort_id: int, bounds: PolicyBounds, *, user: str, now: datetime) -> None:
    """Store the bounds of a cohort; without any bound, its row is deleted."""
    if bounds == PolicyBounds():
        row = session.get(PolicyBoundsRow, cohort_id)
        if row is not None:
            session.delete(row)
        return
    values: dict[str, Any] = msgspec.structs.asdict(bounds)
    session.merge(PolicyBoundsRow(cohort_id=cohort_id, set_by=user, set_at=now, **values))
