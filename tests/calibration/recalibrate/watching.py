"""A watcher of the test fleet, audits that it finds in the database, and what it has done."""

from datetime import datetime, timezone

from edgeexit_calibration import events, policy_history
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.recalibrate.cohort_rules import RecalibrationOptions
from edgeexit_calibration.recalibrate.watcher import Watcher

from edgeexit.policies.confidence import Confidence
from tests.calibration.scenario import DELTA, DEVICE, FLEET, RISK, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "risk": RISK, "delta": DELTA, "user": "ada"}


def ingest(database, *messages, device=DEVICE, now=NOW):
    """Store the messages of a device."""
    with database.writing() as session:
        store_uplinks(session, [Uplink(device, message) for message in messages], now=now)


def new_watcher(database, *, fleet=FLEET, **options):
    """Return the watcher of a process that has just started."""
    return Watcher(database, fleet=fleet, options=RecalibrationOptions(**options))


def check_all(watching, *, now=NOW):
    """Check as often as there is something to do: a check ends after an alarm, and after many audits."""
    while True:
        before = {cohort_id: watched.state for cohort_id, watched in watching._watched.items()}
        watching.check(now=now)
        after = {cohort_id: watched.state for cohort_id, watched in watching._watched.items()}
        if before == after:  # states are equal only if they are the same
            return


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
