"""Revision numbers stay above those that devices run, even after the database was lost or restored."""

import shutil
import sqlite3
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from edgeexit_calibration import cohorts, devices, events, open_database, policy_history, register
from edgeexit_calibration.ingest.store_uplinks import store_uplinks
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.recalibrate.watcher import Watcher
from edgeexit_calibration.store.tables import CohortRow
from sqlalchemy import select

from edgeexit.bundle import Bundle
from edgeexit.errors import PolicyError
from edgeexit.policies.document import MAX_REVISION
from edgeexit.wire import Rejection
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import COHORT, DELTA, DEVICE, FLEET, RISK, audits_of, report_of, state_of

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "user": "ada"}


def ingest(database, *messages):
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, message) for message in messages], now=NOW)


def check(database):
    Watcher(database, fleet=FLEET, min_audits=None, alpha=0.001).check(now=NOW)


@pytest.mark.parametrize(
    "message_of",
    [
        lambda bundle: state_of(bundle.digest, revision=5),
        lambda bundle: report_of(bundle.digest, sequence=1, revision=5),
        lambda bundle: audits_of(bundle, 1, revision=5)[0],
    ],
)
def test_a_new_database_numbers_revisions_above_those_that_devices_run(database, bundle, message_of):
    ingest(database, message_of(bundle), state_of(bundle.digest, revision=4))
    assert register(database, bundle, **GOAL).revision == 6


def test_revisions_of_other_cohorts_and_bundles_are_ignored(database, bundle):
    elsewhere = msgspec.structs.replace(state_of(bundle.digest, revision=5), cohort="elsewhere")
    ingest(database, elsewhere, state_of("d" * 64, revision=5))
    assert register(database, bundle, **GOAL).revision == 1


@ON_SQLITE
def test_a_restored_database_stores_its_policy_again_above_the_revision_that_devices_run(
    database, bundle, tmp_path, caplog
):
    cohort = register(database, bundle, **GOAL).cohort
    with sqlite3.connect(database.engine.url.database) as saved, sqlite3.connect(tmp_path / "restored") as copy:
        saved.backup(copy)
    drifted = audits_of(bundle, 800, trust=0.5)
    ingest(database, *drifted)
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 2]

    restored = open_database(str(tmp_path / "restored"), create=False)
    ingest(restored, state_of(bundle.digest, revision=2))
    for _ in range(3):
        check(restored)
    first, again = policy_history(restored, cohort)
    assert (first.revision, again.revision) == (1, 3)
    assert (again.thresholds, again.certificate) == (first.thresholds, first.certificate)
    assert again.created_by == "calibrator"
    assert [event.kind for event in events(restored, cohort)] == ["registered", "renumbered"]
    assert [record.levelname for record in caplog.records if "database restored" in record.getMessage()] == ["WARNING"]

    after_update = [msgspec.structs.replace(audit, revision=3) for audit in drifted]
    ingest(restored, state_of(bundle.digest, revision=3), *after_update)
    check(restored)
    assert [policy.revision for policy in policy_history(restored, cohort)] == [1, 3, 4]
    assert cohorts(restored)[0].revision == 4
    restored.close()


def test_a_refit_uses_a_revision_above_one_that_a_device_reports_during_the_refit(database, bundle, monkeypatch):
    from edgeexit_calibration.recalibrate import watcher  # noqa: PLC0415

    cohort = register(database, bundle, **GOAL).cohort
    ingest(database, *audits_of(bundle, 800, trust=0.5))

    def refit_while_a_state_arrives(*arguments, **options):
        ingest(database, state_of(bundle.digest, revision=7))
        return refit(*arguments, **options)

    refit = watcher.refit
    monkeypatch.setattr(watcher, "refit", refit_while_a_state_arrives)
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 8]


def test_a_rejected_policy_with_the_same_number_is_stored_again_under_a_higher_one(database, bundle):
    cohort = register(database, bundle, **GOAL).cohort
    running = state_of(bundle.digest, revision=1)
    ingest(database, running)
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1]
    ingest(database, msgspec.structs.replace(running, rejected=Rejection(reason="other content", revision=1)))
    check(database)
    ingest(database, msgspec.structs.replace(running, revision=2, rejected=Rejection(reason="other", revision=1)))
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 2]


def test_a_device_cannot_exhaust_the_revision_numbers(database, bundle):
    cohort = register(database, bundle, **GOAL).cohort
    ingest(database, state_of(bundle.digest, revision=2**63 - 1), state_of(bundle.digest, revision=3))
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 4]


def test_no_revision_above_2_to_the_53_is_issued(database, bundle, tmp_path):
    """2^53 is used; after it, a registration is refused and a refit is postponed, and the policy stays active."""
    ingest(database, state_of(bundle.digest))
    with database.writing() as session:
        session.scalars(select(CohortRow)).one().highest_unknown_revision = MAX_REVISION - 1
    cohort = register(database, bundle, **GOAL).cohort
    at_the_end = [msgspec.structs.replace(audit, revision=MAX_REVISION) for audit in audits_of(bundle, 800, trust=0.5)]
    ingest(database, *at_the_end, state_of(bundle.digest, revision=MAX_REVISION))
    rejected = Rejection(reason="other content", revision=MAX_REVISION)
    ingest(database, msgspec.structs.replace(state_of(bundle.digest, revision=MAX_REVISION), rejected=rejected))
    for _ in range(2):
        check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [MAX_REVISION]
    log = events(database, cohort)
    assert [event.kind for event in log] == ["registered", "risk exceeded", "refit postponed"]
    assert log[-1].details["cause"] == "no revision left"

    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    shipped = copy.policy()
    policy = msgspec.structs.replace(shipped.policy, thresholds=(0.99, 0.99))
    copy.write_policy(msgspec.structs.replace(shipped, policy=policy))
    with pytest.raises(PolicyError, match=f"revision {MAX_REVISION} is the last one"):
        register(database, copy, **GOAL)


def test_an_mqtt_will_changes_only_the_online_flag(database, bundle):
    rejection = Rejection(reason="not signed")
    newest = msgspec.structs.replace(state_of(bundle.digest, revision=4), policy="beem", rejected=rejection)
    ingest(database, newest, state_of(bundle.digest, revision=0, online=False))
    [device] = devices(database)
    assert (device.online, device.revision, device.policy, device.rejected) == (False, 4, "beem", "not signed")
    rebooted = msgspec.structs.replace(state_of(bundle.digest, revision=0, online=False), start="2" * 16)
    ingest(database, rebooted)
    [device] = devices(database)
    assert (device.online, device.revision, device.policy, device.rejected) == (False, 0, "confidence", None)


def test_a_device_that_invents_ever_higher_revisions_causes_few_new_numbers(database, bundle, caplog):
    cohort = register(database, bundle, **GOAL).cohort
    for step in range(1, 8):
        ingest(database, state_of(bundle.digest, revision=1000 * step))
        check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 1001, 2001, 3001]
    assert caplog.text.count("is it hostile?") == 7 - 3  # one line per watcher, of which the test has several
    Watcher(database, fleet=FLEET, min_audits=None, alpha=0.001).check(now=NOW + timedelta(hours=2))
    assert policy_history(database, cohort)[-1].revision == 7001
