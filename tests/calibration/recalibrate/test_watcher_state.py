"""What a watcher knows survives a restart, a new leader and another number of the policy, but not a damaged state."""

import shutil
from datetime import timedelta

import msgspec
import pytest
from edgeexit_calibration import audit_watermark, events, policy_history, register
from edgeexit_calibration.publishing.signed_revisions import RevisionRecorder, SignedRevision
from edgeexit_calibration.recalibrate import watcher
from edgeexit_calibration.recalibrate.stored_guarantees import read_guarantee
from edgeexit_calibration.store.tables import GuaranteeRow
from sqlalchemy import select

from edgeexit.bundle import Bundle
from edgeexit.policies import disagrees
from edgeexit.wire import DeviceAddress
from tests.calibration.recalibrate.watching import (
    GOAL,
    NOW,
    check_all,
    current_audits,
    event_kinds,
    ingest,
    new_watcher,
    newest_policy,
    revisions,
)
from tests.calibration.scenario import COHORT, FLEET, RISK, audits_of, readouts_of, state_of

OTHER_FLEET = "plaza"
OTHER_DEVICE = DeviceAddress(OTHER_FLEET, "s0", "camera-1")
PHASES = [(1.0, 300)] * 2 + [(0.5, 300)] * 4 + [(1.0, 400)] * 3
"""Trust and number of the audits that arrive between two checks."""


def phase(database, cohort, bundle, number):
    """Return the audits of a phase, from a device of the cohort that runs the current revision."""
    trust, count = PHASES[number]
    options = {"trust": trust, "first_sequence": 100 * number, "seed": 40 + number}
    return current_audits(database, cohort, bundle, count, **options)


def changes(database, cohort):
    """Return what was decided for a cohort, without the numbers of revisions and audits."""
    history = [policy for policy in policy_history(database, cohort) if "database did not issue" not in policy.reason]
    return [
        (policy.thresholds, policy.reason.split(" since ")[0], policy.certificate.samples, policy.certificate.observed)
        for policy in history
    ]


def stored(database, cohort_id=1):
    with database.reading() as session:
        return read_guarantee(session, cohort_id)


def _killed(database, watching, **_):
    return new_watcher(database)


def _stopped(database, watching, **_):
    watching.save(now=NOW)
    return new_watcher(database)


def _renumbered(database, watching, *, cohort, **_):
    """Our key has signed another revision, so the policy is stored under a higher number, at most three times."""
    newest = revisions(database, cohort)[-1]
    RevisionRecorder(database).record(SignedRevision(cohort, newest + 1, b"{}"))
    return watching


@pytest.mark.parametrize("interruption", [_killed, _stopped, _renumbered])
def test_an_interruption_changes_no_decision(database, bundle, interruption):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    steady = register(database, bundle, cohort=COHORT, **{**GOAL, "fleet": OTHER_FLEET}).cohort
    watching, undisturbed = new_watcher(database), new_watcher(database, fleet=OTHER_FLEET)
    for number in range(len(PHASES)):
        check_all(watching)
        check_all(undisturbed)
        ingest(database, *phase(database, cohort, bundle, number))
        ingest(database, *phase(database, steady, bundle, number), device=OTHER_DEVICE)
        check_all(watching)
        check_all(undisturbed)
        watching = interruption(database, watching, cohort=cohort)
    kinds = event_kinds(database, steady)
    assert kinds.count("stepped back") >= 1
    assert kinds.count("bolder") >= 4
    assert changes(database, cohort) == changes(database, steady)
    assert revisions(database, steady) == list(range(1, len(kinds) - kinds.count("risk exceeded") + 1))


def test_a_backlog_is_processed_in_parts_with_the_same_decisions(database, bundle, monkeypatch):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    steady = register(database, bundle, cohort=COHORT, **{**GOAL, "fleet": OTHER_FLEET}).cohort
    watching, undisturbed = new_watcher(database), new_watcher(database, fleet=OTHER_FLEET)
    for numbers in ((0, 1, 2), range(3, len(PHASES))):  # the backlog is the second part, after an alarm
        check_all(watching)
        check_all(undisturbed)
        for number in numbers:
            ingest(database, *phase(database, cohort, bundle, number))
            ingest(database, *phase(database, steady, bundle, number), device=OTHER_DEVICE)
    check_all(undisturbed)
    monkeypatch.setattr(watcher, "_CHUNK", 70)
    monkeypatch.setattr(watcher, "_MAX_AUDITS", 200)
    checks = 0
    while changes(database, cohort) != changes(database, steady):
        watching.check(now=NOW)
        checks += 1
        assert checks < 30
    assert checks > 2
    assert "bolder" in event_kinds(database, steady)


def test_a_process_that_was_paused_continues_with_what_another_one_has_stored(database, bundle):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    paused = new_watcher(database)
    check_all(paused)
    leading = new_watcher(database)
    for number in range(4):
        ingest(database, *phase(database, cohort, bundle, number))
        check_all(leading)
    decided = changes(database, cohort)
    assert len(decided) > 2
    check_all(paused)
    assert changes(database, cohort) == decided
    assert stored(database).state.epoch == 2


def test_the_state_is_stored_every_five_minutes_and_at_the_end(database, bundle):
    def saved_until():
        with database.reading() as session:
            return session.scalars(select(GuaranteeRow.last_sample)).one()

    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    watching = new_watcher(database)
    check_all(watching)
    assert saved_until() == 0
    found = []
    for number, minutes in enumerate((4, 5, 9)):
        ingest(database, *audits_of(bundle, 100, first_sequence=number, seed=11))
        watching.check(now=NOW + timedelta(minutes=minutes))
        found.append((audit_watermark(database, cohort), saved_until()))
    (_, first), (second, saved), (newest, last) = found
    assert (first, saved, last) == (0, second, second)
    watching.save(now=NOW + timedelta(minutes=9))
    assert saved_until() == newest


@pytest.mark.parametrize("damage", [lambda state: state[:-1], lambda _: b"", lambda state: state[:40] + b"x" * 40])
def test_a_damaged_state_begins_the_guarantee_anew_with_one_line(database, bundle, caplog, damage):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 300, seed=11))
    check_all(watching)
    watching.save(now=NOW)
    with database.writing() as session:
        row = session.scalars(select(GuaranteeRow)).one()
        row.state = damage(row.state)
    restarted = new_watcher(database)
    for _ in range(2):
        check_all(restarted)
    [line] = [record.getMessage() for record in caplog.records if "begins anew" in record.getMessage()]
    assert "damaged" in line
    newest = audit_watermark(database, cohort)
    assert stored(database).state.first == newest + 1
    ingest(database, *audits_of(bundle, 400, trust=0.3, first_sequence=50, seed=8))
    check_all(restarted)
    assert event_kinds(database, cohort)[:3] == ["registered", "risk exceeded", "stepped back"]
    assert events(database, cohort)[1].details["change_position"] > newest


def test_another_policy_of_a_user_begins_anew(database, bundle, tmp_path, caplog):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 400, trust=0.3))
    check_all(watching)
    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    shipped = copy.policy()
    deployed = msgspec.structs.replace(shipped.policy, thresholds=(0.99, 0.99))
    copy.write_policy(msgspec.structs.replace(shipped, policy=deployed))
    register(database, copy, cohort=COHORT, **GOAL)
    count = len(revisions(database, cohort))
    for one in (watching, new_watcher(database)):
        check_all(one)
        state = stored(database).state
        assert (state.policy, state.epoch, state.audits) == (deployed, 1, 0)
        assert state.first == audit_watermark(database, cohort) + 1
    assert len(revisions(database, cohort)) == count
    assert "begins anew" not in caplog.text


FORGER = DeviceAddress(FLEET, "s0", "camera-3")


def forged(bundle, count):
    """Return audits of samples of which each exit agrees with the final one, although most scores are low."""
    return [
        msgspec.structs.replace(
            audit, samples=tuple(msgspec.structs.replace(s, top1=(s.top1[-1],) * 3) for s in audit.samples)
        )
        for audit in audits_of(bundle, count, seed=3)
    ]


@pytest.mark.parametrize("tolerated", [1, 0])
def test_the_audits_of_one_device_make_no_policy_bolder(database, bundle, tolerated):
    """Nine messages did so when nobody was assumed to forge audits."""
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    for name in ("camera-1", "camera-2", "camera-3"):
        ingest(database, state_of(bundle.digest), device=DeviceAddress(FLEET, "s0", name))
    watching = new_watcher(database, tolerated_devices=tolerated)
    check_all(watching)
    ingest(database, *forged(bundle, 900), device=FORGER)
    check_all(watching)
    assert ("bolder" in event_kinds(database, cohort)) == (tolerated == 0)
    for number, name in enumerate(("camera-1", "camera-2")):
        honest = audits_of(bundle, 1000, seed=11 + number)
        ingest(database, *honest, device=DeviceAddress(FLEET, "s0", name))
        check_all(watching)
    if tolerated:
        assert disagrees(newest_policy(database, cohort), readouts_of(20_000, seed=50)).mean() <= RISK


def test_a_cohort_of_two_devices_tolerates_no_forger(database, bundle):
    register(database, bundle, cohort=COHORT, **GOAL)
    watching = new_watcher(database)
    check_all(watching)
    tolerated = []
    for name in ("camera-1", "camera-2", "camera-3"):
        ingest(database, state_of(bundle.digest), device=DeviceAddress(FLEET, "s0", name))
        ingest(database, *audits_of(bundle, 10), device=DeviceAddress(FLEET, "s0", name))
        check_all(watching)
        watching.save(now=NOW)
        tolerated.append(stored(database).rules.tolerated_devices)
    assert tolerated == [0, 0, 1]


def test_devices_that_connect_after_the_registration_make_a_cohort_tolerate_a_forger(database, bundle):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    watching = new_watcher(database)
    check_all(watching)
    for name in ("camera-1", "camera-2", "camera-3"):
        ingest(database, state_of(bundle.digest), device=DeviceAddress(FLEET, "s0", name))
    ingest(database, *forged(bundle, 900), device=FORGER)
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered"]
