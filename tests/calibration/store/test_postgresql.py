"""The database on PostgreSQL: restarts, frozen servers, locks, several processes, and what its errors say."""

import multiprocessing
import subprocess
import sys
import threading
from datetime import datetime, timezone

import pytest
from edgeexit_calibration import DatabaseError, open_database
from edgeexit_calibration.store.limited_connection import LimitedConnection
from edgeexit_calibration.store.tables import FleetRow
from sqlalchemy import select, text, update

from tests.calibration.database_kinds import ON_POSTGRESQL
from tests.postgres import postgres


@pytest.fixture
def server():
    running = postgres()
    yield running
    running.start()


@pytest.fixture
def empty_url(server):
    url = server.create()
    yield url
    server.start()
    server.drop(url)


def _add_fleet(database, name):
    with database.writing() as session:
        session.add(FleetRow(fleet=name, drops={}, last_drop="", last_drop_at=datetime.now(timezone.utc)))


def _fleets(database):
    with database.reading() as session:
        return sorted(session.scalars(select(FleetRow.fleet)))


def _open(url, barrier, outcomes):
    barrier.wait()
    try:
        open_database(url).close()
    except BaseException as error:
        outcomes.put(repr(error))
        raise
    outcomes.put("opened")


def test_five_processes_open_an_empty_database_at_once(empty_url):
    spawn = multiprocessing.get_context("spawn")
    barrier, outcomes = spawn.Barrier(5), spawn.Queue()
    processes = [spawn.Process(target=_open, args=(empty_url, barrier, outcomes)) for _ in range(5)]
    for process in processes:
        process.start()
    assert [outcomes.get(timeout=60) for _ in processes] == ["opened"] * 5
    for process in processes:
        process.join(10)


@ON_POSTGRESQL
@pytest.mark.parametrize("end", ["fast", "immediate", "kill"])
def test_a_restart_of_the_server_in_a_transaction_is_an_error_and_the_next_transaction_works(database, server, end):
    _add_fleet(database, "before")

    def write():
        with database.writing() as session:
            session.execute(update(FleetRow).values(last_drop="never committed"))
            server.kill() if end == "kill" else server.stop(end)
            session.execute(update(FleetRow).values(last_drop="never reached"))

    with pytest.raises(DatabaseError) as caught:
        write()
    assert "\n" not in str(caught.value)
    with pytest.raises(DatabaseError, match="is the server running and reachable"):
        _fleets(database)
    server.start()
    _add_fleet(database, "after")
    with database.reading() as session:
        assert set(session.execute(select(FleetRow.fleet, FleetRow.last_drop))) == {("before", ""), ("after", "")}


@ON_POSTGRESQL
def test_idle_connections_that_a_restart_closed_are_replaced_without_an_error(database, server):
    _add_fleet(database, "before")
    server.restart("fast")
    _add_fleet(database, "after")
    assert _fleets(database) == ["after", "before"]


@ON_POSTGRESQL
def test_a_server_that_stops_answering_is_an_error_and_works_again_later(database, server, monkeypatch):
    monkeypatch.setattr(LimitedConnection, "max_wait_s", 0.3)

    def write():
        with database.writing() as session:
            session.execute(select(FleetRow))
            with server.frozen():
                session.execute(update(FleetRow).values(last_drop="never answered"))

    _add_fleet(database, "before")
    with pytest.raises(DatabaseError, match="the server did not answer"):
        write()
    monkeypatch.undo()
    _add_fleet(database, "after")
    assert _fleets(database) == ["after", "before"]


@ON_POSTGRESQL
def test_a_lock_that_another_transaction_holds_is_an_error_after_the_time_limit(database, database_url):
    _add_fleet(database, "shop")
    impatient = open_database(database_url, busy_timeout_s=0.1)
    with database.writing() as session:
        session.scalars(select(FleetRow).with_for_update()).all()
        with pytest.raises(DatabaseError, match="another process holds a lock"), impatient.writing() as other:
            other.scalars(select(FleetRow).with_for_update()).all()
    with impatient.writing() as other:
        other.scalars(select(FleetRow).with_for_update()).all()
    impatient.close()


@ON_POSTGRESQL
def test_a_deadlock_is_a_database_error_of_one_transaction_and_the_other_commits(database):
    _add_fleet(database, "a")
    _add_fleet(database, "b")
    both_hold_one, errors = threading.Barrier(2), []

    def lock(first, second):
        try:
            with database.writing() as session:
                for name in (first, second):
                    session.execute(update(FleetRow).filter_by(fleet=name).values(last_drop=first))
                    if name == first:
                        both_hold_one.wait()
        except DatabaseError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=lock, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (error,) = errors
    assert "deadlock detected" in error
    assert "try again" in error
    assert "\n" not in error


@ON_POSTGRESQL
def test_a_reader_sees_one_state_and_cannot_write(database):
    with database.reading() as session:
        assert session.scalars(select(FleetRow)).all() == []
        _add_fleet(database, "shop")
        assert session.scalars(select(FleetRow)).all() == []
        with pytest.raises(DatabaseError), database.reading() as other:
            other.execute(text("DELETE FROM fleet"))
    assert _fleets(database) == ["shop"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("PASSWORD", "seventeen", "password authentication failed"),
        ("/NAME", "/missing", "create the database"),
        (":PORT/", ":1/", "is the server running and reachable"),
        ("127.0.0.1", "nowhere.invalid", "is the name of the server right"),
        ("/NAME", "/NAME?sslmode=require", "SSL"),
        ("/NAME", "/NAME?unknown_option=seventeen", "only options of libpq"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line_with_advice_and_without_the_password(
    server, empty_url, old, new, message
):
    name = empty_url.rpartition("/")[2]
    changed = "postgresql://postgres:PASSWORD@127.0.0.1:PORT/NAME".replace(old, new)
    url = changed.replace("PASSWORD", server.password).replace("PORT", str(server.port)).replace("NAME", name)
    with pytest.raises(DatabaseError, match=message) as caught:
        open_database(url)
    assert "\n" not in str(caught.value)
    assert server.password not in str(caught.value)
    assert "seventeen" not in str(caught.value)


def test_a_role_without_rights_is_told_what_it_needs(server, empty_url):
    owner = open_database(empty_url)
    with owner.writing() as session:
        session.execute(text("CREATE ROLE guest LOGIN PASSWORD 'welcome'"))
    guest_url = empty_url.replace(f"postgres:{server.password}", "guest:welcome")
    with pytest.raises(DatabaseError, match="make the role of the calibrator the owner") as caught:
        open_database(guest_url)
    assert "welcome" not in str(caught.value)
    with owner.writing() as session:
        session.execute(text("DROP ROLE guest"))
    owner.close()


def test_without_the_driver_the_error_names_what_to_install():
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from edgeexit_calibration import DatabaseError, open_database\n"
        "try: open_database('postgresql://u:secret@h/db')\n"
        "except DatabaseError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "edgeexit[postgresql]"' in done.stdout
    assert "secret" not in done.stdout
