"""Revision numbers stay above those that our key has signed, even after the database was lost or restored."""

import shutil
import sqlite3
from datetime import timedelta

import msgspec
import pytest
from edgeexit_calibration import (
    CohortAddress,
    accept_revision,
    cohorts,
    devices,
    events,
    open_database,
    policy_history,
    register,
)
from edgeexit_calibration.publishing.signed_revisions import RevisionRecorder, SignedRevision
from edgeexit_calibration.recalibrate import watcher
from edgeexit_calibration.store.tables import CohortRow
from sqlalchemy import select

from edgeexit.bundle import Bundle
from edgeexit.errors import PolicyError
from edgeexit.policies.document import MAX_REVISION
from edgeexit.wire import Rejection
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.recalibrate import watching
from tests.calibration.recalibrate.watching import NOW, event_kinds, ingest, new_watcher
from tests.calibration.scenario import COHORT, FLEET, audits_of, report_of, state_of

GOAL = {**watching.GOAL, "cohort": COHORT}


def record(database, bundle, revision, *, cohort=COHORT, document=b"{}"):
    """Record a revision that our key signed for the cohort, as found at the broker."""
    RevisionRecorder(database).record(SignedRevision(CohortAddress(FLEET, bundle.digest, cohort), revision, document))


def check(database, now=NOW):
    new_watcher(database).check(now=now)


def numbers(database, cohort):
    return [policy.revision for policy in policy_history(database, cohort)]


def claimed(database):
    with database.reading() as session:
        return session.scalars(select(CohortRow.claimed_revision)).one()


def test_a_new_database_numbers_revisions_above_those_that_our_key_signed(database, bundle):
    record(database, bundle, 5)
    record(database, bundle, 4)
    record(database, bundle, 9, cohort="elsewhere")
    assert register(database, bundle, **GOAL).revision == 6


@pytest.mark.parametrize(
    "message_of",
    [
        lambda bundle: state_of(bundle.digest, revision=2**31),
        lambda bundle: report_of(bundle.digest, sequence=1, revision=2**31),
        lambda bundle: audits_of(bundle, 1, revision=2**31)[0],
        lambda bundle: state_of(bundle.digest, revision=1, rejected=Rejection(reason="other content", revision=1)),
    ],
)
def test_a_revision_that_only_a_device_claims_is_shown_and_renumbers_nothing(database, bundle, message_of):
    cohort, message = register(database, bundle, **GOAL).cohort, message_of(bundle)
    ingest(database, message)
    check(database)
    assert numbers(database, cohort) == [1]
    assert claimed(database) == message.revision


def test_what_devices_claim_before_the_registration_does_not_number_it(database, bundle):
    ingest(database, state_of(bundle.digest, revision=2**31))
    assert register(database, bundle, **GOAL).revision == 1


@ON_SQLITE
def test_a_restored_database_stores_its_policy_again_above_the_revision_that_was_published(
    database, bundle, tmp_path, caplog
):
    cohort = register(database, bundle, **GOAL).cohort
    check(database)
    with sqlite3.connect(database.engine.url.database) as saved, sqlite3.connect(tmp_path / "restored") as copy:
        saved.backup(copy)
    drifted = audits_of(bundle, 150, trust=0.3)
    ingest(database, *drifted)
    check(database)
    assert numbers(database, cohort) == [1, 2]

    restored = open_database(str(tmp_path / "restored"), create=False)
    record(restored, bundle, 2)
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
    check(restored)  # the state in the backup has seen none of these audits
    assert numbers(restored, cohort) == [1, 3, 4]
    assert event_kinds(restored, cohort)[-2:] == ["risk exceeded", "stepped back"]
    assert cohorts(restored)[0].revision == 4
    restored.close()


def test_a_signed_policy_with_our_number_and_another_content_is_followed_by_a_higher_number(database, bundle):
    cohort = register(database, bundle, **GOAL).cohort
    own = policy_history(database, cohort)
    record(database, bundle, 1, document=None)  # a heartbeat of our own policy
    check(database)
    assert policy_history(database, cohort) == own
    record(database, bundle, 1)
    check(database)
    assert numbers(database, cohort) == [1, 2]


def test_a_change_uses_a_revision_above_one_that_is_found_while_it_is_computed(database, bundle, monkeypatch):
    cohort = register(database, bundle, **GOAL).cohort
    check(database)
    ingest(database, *audits_of(bundle, 150, trust=0.3))

    def advance_while_a_policy_arrives(*arguments):
        record(database, bundle, 7)
        return advance(*arguments)

    advance = watcher.advance
    monkeypatch.setattr(watcher, "advance", advance_while_a_policy_arrives)
    check(database)
    assert numbers(database, cohort) == [1, 8]


def test_a_policy_that_a_user_registers_while_a_change_is_computed_stays(database, bundle, tmp_path, monkeypatch):
    cohort = register(database, bundle, **GOAL).cohort
    check(database)
    ingest(database, *audits_of(bundle, 150, trust=0.3))
    copy = with_thresholds(bundle, tmp_path / "copy", (0.99, 0.99))

    def advance_while_a_user_registers(*arguments):
        register(database, copy, **GOAL)
        return advance(*arguments)

    advance = watcher.advance
    monkeypatch.setattr(watcher, "advance", advance_while_a_user_registers)
    check(database)
    assert numbers(database, cohort) == [1, 2]
    assert policy_history(database, cohort)[-1].thresholds == (0.99, 0.99)
    assert event_kinds(database, cohort) == ["registered", "registered"]


def test_the_last_revision_is_not_recorded_although_a_thief_of_the_key_signed_it(database, bundle, caplog):
    cohort = register(database, bundle, **GOAL).cohort
    record(database, bundle, MAX_REVISION)
    check(database)
    assert numbers(database, cohort) == [1]
    assert "was it stolen?" in caplog.text


def test_no_revision_above_2_to_the_53_is_issued(database, bundle, tmp_path):
    """2^53 is used; after it, a registration is refused and a refit is postponed, and the policy stays active."""
    record(database, bundle, MAX_REVISION - 1)
    cohort = register(database, bundle, **GOAL).cohort
    check(database)
    ingest(
        database,
        *(msgspec.structs.replace(audit, revision=MAX_REVISION) for audit in audits_of(bundle, 800, trust=0.5)),
        state_of(bundle.digest, revision=MAX_REVISION),
    )
    running = new_watcher(database)
    for _ in range(2):
        running.check(now=NOW)
        check(database)  # as after a restart
    assert numbers(database, cohort) == [MAX_REVISION]
    log = events(database, cohort)
    assert [event.kind for event in log] == ["registered", "risk exceeded", "refit postponed"]
    assert log[-1].details["cause"] == "no revision left"
    assert cohorts(database)[0].condition == "risk exceeded; no revision left"

    with pytest.raises(PolicyError, match=f"revision {MAX_REVISION} is the last one"):
        register(database, with_thresholds(bundle, tmp_path / "copy", (0.99, 0.99)), **GOAL)


def with_thresholds(bundle, folder, thresholds):
    """Return a copy of a bundle whose policy has other thresholds."""
    copy = Bundle.open(shutil.copytree(bundle.path, folder))
    shipped = copy.policy()
    copy.write_policy(
        msgspec.structs.replace(shipped, policy=msgspec.structs.replace(shipped.policy, thresholds=thresholds))
    )
    return copy


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


def test_two_calibrators_with_different_databases_do_not_outbid_each_other_for_ever(database, bundle, caplog):
    cohort = register(database, bundle, **GOAL).cohort
    for step in range(1, 8):
        record(database, bundle, 1000 * step)
        check(database)
    assert numbers(database, cohort) == [1, 1001, 2001, 3001]
    assert caplog.text.count("another calibrator with another database") == 7 - 3  # one line per watcher
    check(database, NOW + timedelta(hours=2))
    assert numbers(database, cohort)[-1] == 7001


def test_an_accepted_revision_is_followed_by_a_higher_number(database, bundle):
    cohort = register(database, bundle, **GOAL).cohort
    ingest(database, state_of(bundle.digest, revision=5))
    done = accept_revision(database, COHORT, user="ada", now=NOW)
    assert (done.cohort, done.accepted, done.current) == (cohort, 5, 1)
    assert claimed(database) == 0
    check(database)
    assert numbers(database, cohort) == [1, 6]
    assert [(event.kind, event.actor) for event in events(database, cohort)] == [
        ("registered", "ada"), ("revision accepted", "ada"), ("renumbered", "calibrator"),
    ]  # fmt: skip
