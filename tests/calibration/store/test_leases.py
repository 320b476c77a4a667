"""Leases on SQLite and PostgreSQL: takeovers, fences, and owners that pause at the worst moment."""

import threading
from datetime import datetime, timezone

import pytest
from edgeexit_calibration import open_database
from edgeexit_calibration.store.leases import LeaseLostError, Leases, leader_lease, shard_lease
from edgeexit_calibration.store.process_identity import liveness, place_of_this_process, shown_place
from edgeexit_calibration.store.process_tables import LeaseRow
from edgeexit_calibration.store.tables import ShardRow
from sqlalchemy import update

from tests.calibration.scenario import until
from tests.postgres import postgres

FLEET = "shop"
SEEN = datetime(2026, 1, 1, tzinfo=timezone.utc)
S0, S1, LEADER = shard_lease(FLEET, "s0"), shard_lease(FLEET, "s1"), leader_lease(FLEET)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    url = str(tmp_path / "calibrator.sqlite") if request.param == "sqlite" else postgres().create_migrated()
    opened = open_database(url)
    yield opened
    opened.close()


@pytest.fixture
def server():
    opened = open_database(postgres().create_migrated())
    yield opened
    opened.close()


def expire(database, *names):
    with database.writing() as session:
        session.execute(update(LeaseRow).where(LeaseRow.name.in_(names)).values(expires_at=1.0))


def write_under(database, leases, *names):
    """Run a write transaction under a fence."""
    with database.writing() as session:
        leases.check(session.connection(), names)


def add_shard_before_fence(database, leases):
    with database.writing() as session:
        session.add(ShardRow(fleet=FLEET, shard="s0", first_seen=SEEN))
        session.flush()
        leases.check(session.connection(), [S0])


def test_a_lease_has_one_owner_until_it_ends_and_its_term_increases(database):
    first, second = Leases(database, FLEET), Leases(database, FLEET)
    assert first.acquire([S0, S1]) == {S0: 1, S1: 1}
    assert second.acquire([S0]) == {}
    write_under(database, first, S0, S1)
    with pytest.raises(LeaseLostError, match="shop shard s0"):
        write_under(database, second, S0)
    expire(database, S0)
    assert second.acquire([S0, S1]) == {S0: 2}
    write_under(database, second, S0)
    with pytest.raises(LeaseLostError, match="shop shard s0"):
        write_under(database, first, S0, S1)
    write_under(database, first, S1)
    assert first.renew() == {S0}
    assert (first.held(), first.holds(S0), first.holds(S1)) == ({S1}, False, True)


def test_an_ended_lease_does_not_permit_to_write_until_it_is_renewed(database):
    leases = Leases(database, FLEET)
    leases.acquire([S0])
    expire(database, S0)
    with pytest.raises(LeaseLostError):
        write_under(database, leases, S0)
    assert leases.renew() == set()
    write_under(database, leases, S0)


def test_a_lost_lease_undoes_what_its_transaction_wrote_before(database):
    leases = Leases(database, FLEET)
    leases.acquire([S0])
    expire(database, S0)
    with pytest.raises(LeaseLostError):
        add_shard_before_fence(database, leases)
    with database.reading() as session:
        assert session.get(ShardRow, (FLEET, "s0")) is None


def test_a_released_lease_is_free_at_once(database):
    first, second = Leases(database, FLEET), Leases(database, FLEET)
    first.acquire([S0, LEADER, first.process])
    first.release([S0, LEADER, first.process])
    assert first.held() == set()
    assert second.acquire([S0, LEADER]) == {S0: 2, LEADER: 2}
    assert first.process not in second.all_of_fleet()


def test_a_lease_that_is_not_renewed_ends_by_the_clock_of_the_database(database):
    first, second = Leases(database, FLEET, ttl_s=0.3), Leases(database, FLEET)
    first.acquire([S0])
    assert first.holds(S0)
    until(lambda: second.acquire([S0]) == {S0: 2})
    assert not first.holds(S0)


def test_leases_of_another_fleet_are_not_listed(database):
    Leases(database, FLEET).acquire([S0])
    other = Leases(database, "shop_2")
    other.acquire([leader_lease("shop_2")])
    assert set(other.all_of_fleet()) == {"shop_2 leader"}
    [lease] = Leases(database, FLEET).all_of_fleet().values()
    assert (lease.name, lease.term) == (S0, 1)
    assert 14 < lease.remaining_s <= 15


def test_leases_of_processes_that_ended_long_ago_are_deleted(database):
    leases = Leases(database, FLEET)
    leases.acquire([leases.process, S0])
    leases.forget_ended()
    assert set(leases.all_of_fleet()) == {leases.process, S0}
    expire(database, leases.process, S0)
    leases.forget_ended()
    assert set(leases.all_of_fleet()) == {S0}


def test_a_process_that_runs_is_told_from_one_that_ended():
    place = place_of_this_process()
    assert liveness(place) == "alive"
    shown, _, identity = place.partition(" [")
    assert shown_place(place) == shown
    scope, pid, started = identity.rstrip("]").split(" ")
    assert liveness(f"{shown} [{scope} {pid} {int(started) + 1}]") == "dead"  # the id was given to another process
    assert liveness(f"{shown} [elsewhere {pid} {started}]") == "unknown"
    assert liveness("a host without /proc") == "unknown"


def test_a_lease_of_a_dead_process_is_ended_and_one_of_a_running_process_is_not(database):
    first = Leases(database, FLEET)
    assert first.end_dead(LEADER) is None
    first.acquire([LEADER])
    assert first.end_dead(LEADER) == "alive"
    shown, _, identity = first.place.partition(" [")
    scope, pid, started = identity.rstrip("]").split(" ")
    with database.writing() as session:
        session.execute(update(LeaseRow).values(place=f"{shown} [{scope} {pid} {int(started) - 1}]"))
    second = Leases(database, FLEET)
    assert second.end_dead(LEADER) == "dead"
    assert second.acquire([LEADER]) == {LEADER: 2}


def test_a_takeover_waits_for_a_transaction_that_has_passed_the_fence(server):
    first, second = Leases(server, FLEET), Leases(server, FLEET)
    first.acquire([S0])
    with server.writing() as session:
        first.check(session.connection(), [S0])
        session.add(ShardRow(fleet=FLEET, shard="s0", first_seen=SEEN))
        session.flush()
        expire(server, S0)  # the owner pauses here, for longer than its lease lasts
        assert second.acquire([S0]) == {}
    assert second.acquire([S0]) == {S0: 2}
    with pytest.raises(LeaseLostError):
        write_under(server, first, S0)


def test_a_renewal_does_not_wait_for_transactions_of_its_owner(server):
    leases = Leases(server, FLEET)
    leases.acquire([S0])
    with server.writing() as session:
        leases.check(session.connection(), [S0])
        renewing = threading.Thread(target=leases.renew)
        renewing.start()
        renewing.join(10)
        assert not renewing.is_alive()


def test_of_many_that_acquire_at_once_each_lease_goes_to_one(server):
    names = [shard_lease(FLEET, f"s{number}") for number in range(20)]
    processes = [Leases(server, FLEET) for _ in range(4)]
    taken = []
    threads = [threading.Thread(target=lambda one=one: taken.append(one.acquire(names))) for one in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(taken) == len(processes)
    assert sorted(name for terms in taken for name in terms) == sorted(names)
