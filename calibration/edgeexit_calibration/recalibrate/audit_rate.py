"""How many samples the devices of a cohort audit: more after an alarm, until further audits change little.

A raised fraction is part of the signed policy document (`AuditRule`). A device whose agent does not know audit rules
rejects every document that has one, so it would keep the policy that exceeds its risk. So a document gets a rule only
if the newest state of every device of the cohort that was seen lately says that its agent knows them.
"""

from datetime import datetime
from statistics import median
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.fitting.path_test import new_path_test, samples_to_certify
from edgeexit.policies import AuditRule
from edgeexit_calibration.recalibrate.guarantee import Guarantee
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from edgeexit_calibration.recalibrate.tracked_path import path_delta
from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.views.counted_devices import seen_lately

_RAISED: Final = 5.0
"""Factor of the median of the devices' own fractions."""
_LIMIT: Final = 10**7
_OBSERVED: Final = 0.75
"""A policy whose mean loss is this part of the risk is certified by a useful number of audits."""


class _AuditState(msgspec.Struct, frozen=True):
    """The part of a device's state that matters here."""

    audit_fraction: float | None = None


def useful_audits(rules: GuaranteeRules) -> int:
    """Return the audits of an epoch after which the fraction is no longer raised.

    So many certify, on the first path, a policy whose mean loss is three quarters of the risk; bolder ones save little.
    """
    test = new_path_test(2, risk=rules.risk, delta=path_delta(0, delta=rules.delta, alpha=rules.alpha))
    expected = msgspec.structs.replace(test, samples=1, loss_sums=test.loss_sums + _OBSERVED * rules.risk)
    return samples_to_certify(expected, 1, limit=_LIMIT) or _LIMIT


def needs_more_audits(state: Guarantee, rules: GuaranteeRules) -> bool:
    """Return whether a raised fraction is useful: in an epoch that an alarm began, until there are enough audits."""
    return state.epoch > 1 and state.audits < useful_audits(rules)


def next_rule(
    session: Session,
    cohort_id: int,
    state: Guarantee,
    rules: GuaranteeRules,
    *,
    raised: float | None,
    now: datetime,
) -> AuditRule | None:
    """Return the rule for the next document of a cohort.

    Args:
        session: a session of the database.
        cohort_id: id of the cohort.
        state: the state after the change of the policy.
        rules: the rules of the cohort.
        raised: the raised fraction; 0: it is never raised; None: five times the median of the devices' own fractions.
        now: the time.

    """
    if raised == 0 or not needs_more_audits(state, rules):
        return None
    own = _own_fractions(session, cohort_id, now)
    if own is None:
        return None
    return AuditRule(fraction=min(_RAISED * median(own), 1.0) if raised is None else raised)


def _own_fractions(session: Session, cohort_id: int, now: datetime) -> list[float] | None:
    """Return the own audit fractions of the devices that were seen lately; None if an agent knows no audit rules.

    None, too, without devices. Devices that audit nothing at all are left out, unless all of them do.
    """
    states = session.scalars(select(DeviceRow.state).where(*seen_lately(cohort_id, now=now)))
    found: list[float] = []
    for state in states:
        fraction = None if state is None else msgspec.json.decode(state, type=_AuditState).audit_fraction
        if fraction is None:
            return None
        found.append(fraction)
    return [fraction for fraction in found if fraction] or found or None
