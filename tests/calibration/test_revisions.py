"""The numbers of revisions: never below what devices run, whatever the database has forgotten."""

import sqlite3
from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import cohorts, devices, events, open_database, policy_history, register
from edgeexit_calibration.ingest import Uplink, store
from edgeexit_calibration.watcher import Watcher

from edgeexit.wire import Rejection
from tests.calibration.scenario import COHORT, DELTA, DEVICE, FLEET, RISK, audits_of, report_of, state_of

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "who": "ada"}


def ingest(database, *messages):
    with database.writing() as session:
        store(session, [Uplink(DEVICE, message) for message in messages], now=NOW)


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
def test_a_lost_database_goes_on_above_what_devices_run(database, bundle, message_of):
    ingest(database, message_of(bundle), state_of(bundle.digest, revision=4))
    assert register(database, bundle, **GOAL).revision == 6


def test_what_devices_of_another_cohort_or_bundle_run_does_not_count(database, bundle):
    elsewhere = msgspec.structs.replace(state_of(bundle.digest, revision=5), cohort="elsewhere")
    ingest(database, elsewhere, state_of("d" * 64, revision=5))
    assert register(database, bundle, **GOAL).revision == 1


def test_a_restored_database_publishes_what_it_has_above_what_devices_run(database, bundle, tmp_path, caplog):
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
    assert (again.thresholds, again.certificate, again.who) == (first.thresholds, first.certificate, "calibrator")
    assert [event.what for event in events(restored, cohort)] == ["registered", "overtaken"]
    assert [record.levelname for record in caplog.records if "restored" in record.getMessage()] == ["WARNING"]

    moved_on = [msgspec.structs.replace(audit, revision=3) for audit in drifted]
    ingest(restored, state_of(bundle.digest, revision=3), *moved_on)
    check(restored)
    assert [policy.revision for policy in policy_history(restored, cohort)] == [1, 3, 4]
    assert cohorts(restored)[0].revision == 4
    restored.close()


def test_a_refit_goes_above_what_devices_run_though_that_came_meanwhile(database, bundle, monkeypatch):
    from edgeexit_calibration import watcher  # noqa: PLC0415

    cohort = register(database, bundle, **GOAL).cohort
    ingest(database, *audits_of(bundle, 800, trust=0.5))

    def refit_while_news_come(*arguments, **options):
        ingest(database, state_of(bundle.digest, revision=7))
        return refit(*arguments, **options)

    refit = watcher.refit
    monkeypatch.setattr(watcher, "refit", refit_while_news_come)
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 8]


def test_the_same_number_with_other_content_is_noticed_where_a_device_refuses_it(database, bundle):
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


def test_a_device_cannot_use_up_the_numbers(database, bundle):
    cohort = register(database, bundle, **GOAL).cohort
    ingest(database, state_of(bundle.digest, revision=2**63 - 1), state_of(bundle.digest, revision=3))
    check(database)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 4]


def test_a_will_only_says_that_the_device_is_away(database, bundle):
    refused = Rejection(reason="not signed")
    now = msgspec.structs.replace(state_of(bundle.digest, revision=4), policy="beem", rejected=refused)
    ingest(database, now, state_of(bundle.digest, revision=0, online=False))
    [device] = devices(database)
    assert (device.online, device.revision, device.policy, device.rejected) == (False, 4, "beem", "not signed")
    rebooted = msgspec.structs.replace(state_of(bundle.digest, revision=0, online=False), boot=2)
    ingest(database, rebooted)
    [device] = devices(database)
    assert (device.online, device.revision, device.policy, device.rejected) == (False, 0, "confidence", None)
