"""A watcher of the test fleet, audits that it finds in the database, and what it has done."""

from datetime import datetime, timezone

from edgeexit_calibration import events, policy_history
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.recalibrate.cohort_rules import RecalibrationOptions
from edgeexit_calibration.recalibrate.watcher import Watcher
from edgeexit_calibration.store.tables import AuditedSampleRow
from sqlalchemy import func, select

from edgeexit.policies.confidence import Confidence
from tests.calibration.scenario import DELTA, DEVICE, FLEET, RISK, audits_of, store_uplinks, until

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "risk": RISK, "delta": DELTA, "user": "ada"}


def ingest(database, *messages, device=DEVICE, now=NOW):
    """Store the messages of a device."""
    with database.writing() as session:
        store_uplinks(session, [Uplink(device, message) for message in messages], now=now)


def current_audits(database, cohort, bundle, count, **options):
    """Return audits of a device that runs the cohort's current revision; for `options` see `audits_of`."""
    policy, revision = newest_policy(database, cohort), revisions(database, cohort)[-1]
    return audits_of(bundle, count, policy=policy, revision=revision, **options)


def new_watcher(database, *, fleet=FLEET, **options):
    """Return the watcher of a process that has just started."""
    return Watcher(database, fleet=fleet, options=RecalibrationOptions(**options))


def check_all(watching, *, now=NOW):
    """Check until all audits were used: a check ends after an alarm, and PostgreSQL may settle ids a little later."""

    def has_used_all():
        before = {cohort_id: watched.state for cohort_id, watched in watching._watched.items()}
        watching.check(now=now)
        with watching._database.reading() as session:
            newest = session.scalar(select(func.max(AuditedSampleRow.id))) or 0
        return all(
            watched.is_stuck or (watched.state is before.get(cohort_id) and watched.read_until >= newest)
            for cohort_id, watched in watching._watched.items()
        )

    until(has_used_all, limit_s=60)


def revisions(database, cohort):
    """Return the numbers of a cohort's revisions."""
    return [policy.revision for policy in policy_history(database, cohort)]


def event_kinds(database, cohort):
    """Return the kinds of a cohort's events; of a change of the policy, the kind of the change."""
    return [event.details.get("kind", event.kind) for event in events(database, cohort)]


def newest_policy(database, cohort):
    """Return a cohort's current policy."""
    view = policy_history(database, cohort)[-1]
    return Confidence(temperatures=view.temperatures, thresholds=view.thresholds)
