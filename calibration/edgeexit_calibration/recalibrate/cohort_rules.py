"""The rules of the guarantee of a cohort: what was registered, and the options of the service."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from sqlalchemy.orm import Session

from edgeexit.policies.document import Loss
from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.recalibrate.found_devices import devices_set_aside
from edgeexit_calibration.recalibrate.guarantee_rules import DEFAULT_MIN_GAIN, GuaranteeRules
from edgeexit_calibration.store.policy_bounds import PolicyBounds, read_bounds
from edgeexit_calibration.store.tables import RegistrationRow
from edgeexit_calibration.views.counted_devices import number_of_counted
from edgeexit_calibration.views.field_costs import costs_in_use

_DEVICES_PER_TOLERATED: Final = 20
"""A cohort of so many devices can leave one out of its alarm. In a smaller one, a change on one device counts."""


class RecalibrationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the service changes the policies of all cohorts."""

    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    """Maximum probability of a false alarm between two changes of the data."""
    tolerated_devices: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Devices of a cohort that may forge audits; in a small cohort, only as many as are less than half of it."""
    max_changes_per_day: Annotated[int, msgspec.Meta(ge=0)] = 24
    """Maximum number of bolder and safer policies of a cohort in a day. Stepping back after an alarm has no limit."""
    audit_fraction_after_alarm: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Fraction of the samples that devices audit after an alarm, see `audit_rate`; 0: not more than usual; null: five
    times the median of their own fractions."""
    enrolment: Enrolment = "open"
    """Which devices count."""


def rules_of(
    session: Session, registration: RegistrationRow, options: RecalibrationOptions, *, now: datetime
) -> GuaranteeRules:
    """Return the rules of a registered cohort."""
    wanted, costs = options.tolerated_devices, costs_in_use(registration)
    enough = max(2 * wanted + 1, _DEVICES_PER_TOLERATED * wanted)
    # All devices, not those that have sent audits: a forger may be the first one that does.
    devices = number_of_counted(session, registration.cohort_id, options.enrolment, now=now, limit=enough)
    set_aside = devices_set_aside(session, registration.cohort_id)
    found = read_bounds(session, registration.cohort_id)
    bounds = PolicyBounds() if found is None else found.bounds
    return GuaranteeRules(
        risk=registration.risk,
        loss=msgspec.convert(registration.loss, Loss),
        delta=registration.delta,
        costs=costs.cumulative,
        budget=registration.budget_ms if costs.unit == "ms" else None,
        alpha=options.alpha,
        tolerated_devices=min(wanted, max(devices - 1, 0) // 2),
        # With those that are set aside: otherwise the monitor would begin anew when one is.
        tolerated_in_alarms=min(wanted, (devices + len(set_aside)) // _DEVICES_PER_TOLERATED),
        min_gain=DEFAULT_MIN_GAIN if bounds.min_gain is None else bounds.min_gain,
        min_final_exits=bounds.min_final_exits,
        frozen=bounds.frozen,
        set_aside=set_aside,
        max_changes_per_day=(
            options.max_changes_per_day if bounds.max_changes_per_day is None else bounds.max_changes_per_day
        ),
    )
