"""Stores a change of a cohort's policy: the new revision, its events, and the state that led to it, all or nothing."""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.policies import PolicyDocument
from edgeexit.policies.document import MAX_REVISION
from edgeexit_calibration.recalibrate.audit_rate import next_rule
from edgeexit_calibration.recalibrate.found_devices import take_back_found
from edgeexit_calibration.recalibrate.guarantee import Guarantee, PolicyChange
from edgeexit_calibration.recalibrate.guarantee_codec import Snapshot
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from edgeexit_calibration.recalibrate.stored_guarantees import write_guarantee
from edgeexit_calibration.store.cohorts import (
    CALIBRATOR,
    CohortAddress,
    EventKind,
    add_event,
    add_revision,
    current_revision,
    last_event,
    locked_cohort,
)
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import CohortRow, EventRow

_log = logging.getLogger(__name__)

_DAY: Final = timedelta(days=1)
_SAME_EVENT: Final = ("revision", "risk", "cause")
"""Two events of a kind are the same if these details are equal; the other details may differ."""


def counted_changes(session: Session, cohort_id: int, *, now: datetime) -> int:
    """Return how often a cohort got a bolder policy, or a safer one within its budget, in the last day."""
    query = select(EventRow.details).filter_by(cohort_id=cohort_id, kind="refitted").where(EventRow.time > now - _DAY)
    return sum(details.get("kind") in ("bolder", "safer") for details in session.scalars(query))


class StoredChange(NamedTuple):
    """A change in the database."""

    document: PolicyDocument
    state: Guarantee
    """The state after the change; after an alarm, only audits of this revision or later ones are used."""


class CurrentPolicy(NamedTuple):
    """The policy of a cohort that is in force, and what is guaranteed."""

    cohort_id: int
    address: CohortAddress
    document: PolicyDocument
    rules: GuaranteeRules


def store_change(
    database: Database,
    current: CurrentPolicy,
    change: PolicyChange,
    state: Guarantee,
    *,
    audit_fraction: float | None,
    now: datetime,
) -> StoredChange | None:
    """Store a change of the current policy, and the state after it. An alarm takes back devices that were found.

    Return None, and store nothing, if the current policy was replaced meanwhile. For `audit_fraction` see
    `audit_rate.next_rule`.
    """
    cohort_id, address, document, rules = current
    reason = _reason(change, rules)
    with database.writing() as session:
        cohort = _locked_if_current(session, current)
        if cohort is None:
            return None
        if change.alarm is not None:
            details = _exceeded(document.revision, change, rules)
            add_event(session, cohort_id, "risk exceeded", details, actor=CALIBRATOR, now=now)
            take_back_found(session, cohort_id, now=now)
        audit = next_rule(session, cohort_id, state, rules, raised=audit_fraction, now=now)
        revision = add_revision(
            session,
            cohort,
            change.policy,
            change.certificate,
            max_latency=document.max_latency,
            audit=audit,
            reason=reason,
            created_by=CALIBRATOR,
            now=now,
        )
        if change.alarm is not None:
            used = state.used_revisions.after_alarm(state.last, revision)
            state = msgspec.structs.replace(state, used_revisions=used)
        details = _refitted(revision, change, state, rules)
        if audit is not None:
            details["audit_fraction"] = audit.fraction
        add_event(session, cohort_id, "refitted", details, actor=CALIBRATOR, now=now)
        write_guarantee(session, cohort_id, revision, Snapshot(state, rules), now=now)
    level = logging.INFO if change.alarm is None else logging.WARNING
    _log.log(level, "%s: %s; revision %d follows revision %d", address, reason, revision, document.revision)
    document = msgspec.structs.replace(
        document, revision=revision, policy=change.policy, certificate=change.certificate, audit=audit
    )
    return StoredChange(document, state)


def store_usual_audits(
    database: Database, current: CurrentPolicy, state: Guarantee, *, now: datetime
) -> PolicyDocument | None:
    """Store the current policy again without its audit rule, and the state; return the new document.

    Return None, and store nothing, if the current policy was replaced meanwhile.
    """
    cohort_id, address, document, rules = current
    reason = f"usual audits again after {state.audits:,} audits"
    with database.writing() as session:
        cohort = _locked_if_current(session, current)
        if cohort is None:
            return None
        revision = add_revision(
            session,
            cohort,
            document.policy,
            document.certificate,
            max_latency=document.max_latency,
            reason=reason,
            created_by=CALIBRATOR,
            now=now,
        )
        details = {"revision": revision, "copied_revision": document.revision, "audits": state.audits}
        add_event(session, cohort_id, "usual audits", details, actor=CALIBRATOR, now=now)
        write_guarantee(session, cohort_id, revision, Snapshot(state, rules), now=now)
    _log.info("%s: %s; revision %d follows revision %d", address, reason, revision, document.revision)
    return msgspec.structs.replace(document, revision=revision, audit=None)


def store_postponement(database: Database, current: CurrentPolicy, change: PolicyChange, *, now: datetime) -> None:
    """Store, once, that a policy exceeds its risk and that no revision is left for another one."""
    cohort_id, address, document, rules = current
    exceeded = _exceeded(document.revision, change, rules)
    reason = f"revision {MAX_REVISION} is the last one; deploy a bundle with another digest"
    postponed = {"revision": document.revision, "risk": rules.risk, "cause": "no revision left", "reason": reason}
    with database.writing() as session:
        locked_cohort(session, cohort_id)
        _add_event_once(session, cohort_id, "risk exceeded", exceeded, now=now)
        if _add_event_once(session, cohort_id, "refit postponed", postponed, now=now):
            _log.warning("%s: revision %d exceeds its risk and stays: %s", address, document.revision, reason)


def _locked_if_current(session: Session, current: CurrentPolicy) -> CohortRow | None:
    """Return the locked cohort; None if another policy is its current one by now."""
    cohort, row = locked_cohort(session, current.cohort_id), current_revision(session, current.cohort_id)
    return cohort if row is not None and row.revision == current.document.revision else None


def _reason(change: PolicyChange, rules: GuaranteeRules) -> str:
    if change.alarm is not None:
        return f"stepped back: {rules.loss} above {100 * rules.risk:g} % since audit {change.alarm.change_position}"
    if change.kind == "within bounds":
        return f"within the bounds: at least {100 * rules.min_final_exits:g} % of the samples reach the final exit"
    certified = f"certified on {change.certificate.samples} audits"
    if change.kind == "safer":
        return f"safer within the budget: costs {change.cost:.3g} of {rules.budget:g} ms, {certified}"
    return f"bolder: saves {100 * (1 - change.cost / change.cost_before):.0f} %, {certified}"


def _exceeded(revision: int, change: PolicyChange, rules: GuaranteeRules) -> dict[str, Any]:
    return {"revision": revision, "risk": rules.risk, **msgspec.to_builtins(change.alarm)}


def _refitted(revision: int, change: PolicyChange, state: Guarantee, rules: GuaranteeRules) -> dict[str, Any]:
    """Return the details of the event; costs are fractions of the cost of full depth."""
    details = {
        "revision": revision,
        "kind": change.kind,
        "epoch": state.epoch,
        "audits": change.certificate.samples,
        "cost": change.cost / rules.costs[-1],
        "cost_before": change.cost_before / rules.costs[-1],
    }
    return details if change.alarm is None else {**details, "change_position": change.alarm.change_position}


def _add_event_once(
    session: Session, cohort_id: int, kind: EventKind, details: Mapping[str, Any], *, now: datetime
) -> bool:
    """Write an event unless the last event of its kind is the same; return True if it was written."""
    last = last_event(session, cohort_id, kind)
    if last is not None and all(last.details.get(name) == details.get(name) for name in _SAME_EVENT):
        return False
    add_event(session, cohort_id, kind, details, actor=CALIBRATOR, now=now)
    return True
