"""Several processes change one cohort at once: no error, no gap, no number twice, no event twice."""

import multiprocessing
import shutil
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from edgeexit_calibration import CohortAddress, events, open_database, policy_history, register
from edgeexit_calibration.ingest.drops import Drop, DropCounter
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.publishing.heartbeats import Heartbeats
from edgeexit_calibration.publishing.publisher import Publisher
from edgeexit_calibration.publishing.signed_revisions import RevisionRecorder, SignedRevision
from edgeexit_calibration.store.cohorts import find_or_add_cohort
from edgeexit_calibration.store.tables import AuditedSampleRow, CohortRow, FleetRow, GuaranteeRow, RegistrationRow
from sqlalchemy import func, select

from edgeexit.bundle import Bundle
from edgeexit.policies.document import LatencyBound
from edgeexit.signing import PrivateKey
from edgeexit.wire import DeviceAddress
from tests.calibration.database_kinds import ON_POSTGRESQL
from tests.calibration.recalibrate.watching import new_watcher
from tests.calibration.scenario import COHORT, DELTA, DEVICE, FLEET, RISK, audits_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA}
PROCESSES, ROUNDS = 4, 8
_SPAWN = multiprocessing.get_context("spawn")


def run(results, barrier, url, work, number, arguments):
    """Run a function of this module in a process of its own, with a database of its own; put its error, or None."""
    try:
        database = open_database(url)
        barrier.wait(60)
        work(database, number, *arguments)
        database.close()
    except BaseException:  # noqa: BLE001 - the test shows it
        results.put(traceback.format_exc())
    else:
        results.put(None)


def at_once(url, work, *arguments, processes=PROCESSES):
    """Run a function in several processes at once, each with its number; no one may fail."""
    results, barrier = _SPAWN.Queue(), _SPAWN.Barrier(processes)
    running = [
        _SPAWN.Process(target=run, args=(results, barrier, url, work, number, arguments)) for number in range(processes)
    ]
    for process in running:
        process.start()
    errors = [results.get(timeout=120) for _ in running]
    for process in running:
        process.join(30)
    assert errors == [None] * processes, "\n".join(error for error in errors if error)


def register_often(database, number, path):
    """Register a bundle again and again, each time with another latency bound, which is a new revision."""
    bundle = Bundle.open(path)
    for round_ in range(ROUNDS):
        bound = LatencyBound(quantile=0.5, ms=1 + number + PROCESSES * round_)
        register(database, bundle, **GOAL, user=f"user{number}", max_latency=bound)


@ON_POSTGRESQL
def test_registrations_of_several_processes_have_every_number_once(database, database_url, bundle):
    at_once(database_url, register_often, bundle.path)
    cohort = CohortAddress(FLEET, bundle.digest, COHORT)
    history = policy_history(database, cohort)
    assert [policy.revision for policy in history] == list(range(1, PROCESSES * ROUNDS + 1))
    assert len(events(database, cohort)) == PROCESSES * ROUNDS


def check_often(database, number):
    """Check the cohorts, as several leaders would; each round, our key has signed one more unknown revision."""
    recorder, watcher = RevisionRecorder(database), new_watcher(database)
    with database.reading() as session:
        [row] = session.scalars(select(CohortRow)).all()
        address = CohortAddress(row.fleet, row.bundle, row.cohort)
    for revision in (10 + number, 20 + number, 30 + number):
        recorder.record(SignedRevision(address, revision, b"{}"))
        watcher.check(now=NOW)


@ON_POSTGRESQL
def test_renumberings_and_changes_of_several_processes_are_done_once(database, database_url, bundle):
    cohort = register(database, bundle, **GOAL, user="ada").cohort
    new_watcher(database).check(now=NOW)
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, audit) for audit in audits_of(bundle, 800, trust=0.5)], now=NOW)
    at_once(database_url, check_often)
    # the limit of renumberings per hour may have kept the number of the last one
    new_watcher(database).check(now=NOW + timedelta(hours=2))
    history, log = policy_history(database, cohort), events(database, cohort)
    numbers = [policy.revision for policy in history]
    assert numbers == sorted(set(numbers))
    issued = [event.details["revision"] for event in log if event.kind in {"renumbered", "refitted"}]
    assert sorted(issued) == numbers[1:]
    exceeded = [event.details["revision"] for event in log if event.kind == "risk exceeded"]
    assert len(exceeded) == len(set(exceeded))
    with database.reading() as session:
        assert numbers[-1] > session.scalars(select(CohortRow.highest_unknown_revision)).one()


class _NoSession:
    """Stands for a connection whose messages nobody needs; heartbeats are only made."""

    connected = True

    def publish(self, *_arguments, **_options):
        return None


def beat_often(database, number, key):
    """Make heartbeats, as leaders that take over from each other would; check that their counters increase."""
    now_s = [0.0]
    heartbeats = Heartbeats(
        database, _NoSession(), fleet=FLEET, keys=[PrivateKey.from_private_bytes(key)], interval_s=1.0,
        clock=lambda: now_s[0],
    )  # fmt: skip
    counters = []
    for _ in range(ROUNDS):
        now_s[0] += 2
        heartbeats.publish(now=NOW)
        counters += [beat.counter for beat in heartbeats._beats.values()]
    assert counters == sorted(set(counters))


@ON_POSTGRESQL
def test_no_heartbeat_of_several_processes_has_the_counter_of_another(database, database_url, bundle):
    register(database, bundle, **GOAL, user="ada")
    at_once(database_url, beat_often, PrivateKey.generate().private_bytes_raw())
    with database.reading() as session:
        highest = session.scalars(select(RegistrationRow.heartbeat)).one()
    assert highest == int(NOW.timestamp()) + PROCESSES * ROUNDS - 1


def add_cohorts(database, number):
    """Add the same cohorts and count dropped messages of the fleet, each process in another order."""
    drops = DropCounter(FLEET)
    labels = [f"c{n}" for n in range(20)]
    for label in labels if number % 2 else reversed(labels):
        drops.add(Drop(None, "unreadable", f"a\0b {label}"))
        drops.add(Drop(DeviceAddress(FLEET, "s0", f"unknown-{number}"), "too many devices", label))
        with database.writing() as session:
            find_or_add_cohort(session, CohortAddress(FLEET, "b" * 64, label))
            drops.take().write(session, now=NOW)


def test_cohorts_and_drops_that_several_processes_add_at_once_cause_no_error(database, database_url):
    at_once(database_url, add_cohorts)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(CohortRow)) == 20
        fleet = session.get_one(FleetRow, FLEET)
        assert fleet.drops == {"unreadable": 20 * PROCESSES, "too many devices": 20 * PROCESSES}
        assert "\0" not in fleet.last_drop


@ON_POSTGRESQL
def test_a_registration_waits_for_one_that_is_not_committed_and_follows_it(database, bundle, tmp_path):
    register(database, bundle, **GOAL, user="ada")
    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    shipped = copy.policy()
    copy.write_policy(msgspec.structs.replace(shipped, max_latency=LatencyBound(quantile=0.5, ms=7)))
    with ThreadPoolExecutor(1) as pool:
        with database.writing() as session:
            row = session.scalars(select(CohortRow).with_for_update()).one()
            begun = pool.submit(register, database, copy, **GOAL, user="bob")
            row.highest_unknown_revision = 9
        assert begun.result(30).revision == 10


def used(watcher):
    """Return the number of audits that the guarantee of the only cohort has used."""
    [watched] = watcher._watched.values()
    return watched.state.audits


@ON_POSTGRESQL
def test_the_watcher_waits_for_audits_with_lower_ids_that_are_not_committed(database, bundle):
    """Ids are taken before a commit, so those of a slow transaction appear after higher ones."""
    register(database, bundle, **GOAL, user="ada")
    watcher = new_watcher(database)
    audits = audits_of(bundle, 30, size=10)

    def store(audit, device, session):
        store_uplinks(session, [Uplink(DEVICE._replace(shard=device), audit)], now=NOW)

    for device in ("slow", "fast"):
        with database.writing() as session:
            store(audits[0], device, session)
    watcher.check(now=NOW)
    seen = used(watcher)
    has_stored, may_commit = threading.Event(), threading.Event()

    def store_slowly():
        with database.writing() as session:
            store(audits[1], "slow", session)
            has_stored.set()
            may_commit.wait(30)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(store_slowly)
        assert has_stored.wait(30)
        try:
            with database.writing() as session:
                store(audits[2], "fast", session)
            watcher.check(now=NOW)
            assert used(watcher) == seen == 0
        finally:
            may_commit.set()
        slow.result(30)
    watcher.check(now=NOW)
    assert used(watcher) == seen + 20
    watcher.save(now=NOW)
    with database.reading() as session:
        last = session.scalars(select(GuaranteeRow.last_sample)).one()
        assert last == session.scalar(select(func.max(AuditedSampleRow.id)))


@pytest.mark.parametrize("number", range(2))
def test_a_queue_of_drops_keeps_what_could_not_be_written(database, number):
    """Counts are the same whether a transaction fails or not."""
    drops = DropCounter(FLEET)
    drops.add(Drop(None, "unreadable", "first"))
    taken = drops.take()
    drops.add(Drop(None, "unreadable", "second"))
    if number:
        drops.put_back(taken)
    with database.writing() as session:
        if not number:
            taken.write(session, now=NOW)
        drops.take().write(session, now=NOW)
    with database.reading() as session:
        assert session.get_one(FleetRow, FLEET).drops == {"unreadable": 2}


def publish_often(database, number, key):
    """Record the publication of every revision, as leaders do that the broker has answered."""
    publisher = Publisher(database, _NoSession(), fleet=FLEET, keys=[PrivateKey.from_private_bytes(key)])
    for policy in publisher._current_policies():
        publisher._record_publication(policy, NOW + timedelta(seconds=number))


@ON_POSTGRESQL
def test_a_publication_is_recorded_once(database, database_url, bundle):
    cohort = register(database, bundle, **GOAL, user="ada").cohort
    at_once(database_url, publish_often, PrivateKey.generate().private_bytes_raw())
    assert [event.kind for event in events(database, cohort)] == ["registered", "published"]
    assert policy_history(database, cohort)[0].published_at == events(database, cohort)[1].time
