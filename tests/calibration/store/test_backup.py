"""Backups while the database is in use, and what a restore needs and keeps."""

import os
import shutil
import sqlite3
import stat
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest
from edgeexit_calibration import DatabaseError, back_up_database, open_database, restore_database
from edgeexit_calibration.store.database_url import parse_url
from edgeexit_calibration.store.leases import Leases, leader_lease
from edgeexit_calibration.store.postgresql_backup import check_postgresql, restore_postgresql
from edgeexit_calibration.store.process_tables import LeaseRow
from edgeexit_calibration.store.schema import newest_revision
from edgeexit_calibration.store.tables import FleetRow
from sqlalchemy import select, text

from tests.calibration.database_kinds import ON_POSTGRESQL, ON_SQLITE
from tests.disks import small_disk
from tests.postgres import postgres, use_programs_of_the_server


@pytest.fixture(autouse=True)
def programs(request, monkeypatch):
    """Use the programs of the test server."""
    if "postgresql" in request.node.name:
        use_programs_of_the_server(monkeypatch)


def _add(database, *names):
    with database.writing() as session:
        session.add_all(
            FleetRow(fleet=name, drops={"invalid": 1}, last_drop="", last_drop_at=datetime.now(timezone.utc))
            for name in names
        )


def _fleets(database):
    with database.reading() as session:
        return sorted(session.scalars(select(FleetRow.fleet)))


def test_a_restored_backup_contains_what_the_database_contained(database, database_url, tmp_path):
    _add(database, "a", "b")
    file = tmp_path / "fleet.backup"
    backup = back_up_database(database, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert backup.bytes == file.stat().st_size > 0
    _add(database, "c")
    database.close()
    restored = restore_database(file, database_url)
    again = open_database(database_url, create=False)
    assert _fleets(again) == ["a", "b"]
    _add(again, "d")
    again.close()
    assert restored.schema == backup.schema
    kept = Path(restored.kept)
    assert kept.name.endswith(".before-restore")
    kept.rename(tmp_path / "kept")
    file.unlink()
    restore_database(tmp_path / "kept", database_url)
    old = open_database(database_url)
    assert _fleets(old) == ["a", "b", "c"]
    old.close()


def test_a_backup_is_consistent_while_another_thread_writes(database, database_url, tmp_path):
    """Each transaction adds two rows, so a consistent backup contains an even number of them."""
    stop, count = threading.Event(), 0

    def write():
        nonlocal count
        while not stop.is_set():
            _add(database, f"{count}a", f"{count}b")
            count += 1

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    try:
        for number in range(3):
            back_up_database(database, tmp_path / f"{number}.backup")
    finally:
        stop.set()
        thread.join()
    database.close()
    for number in range(3):
        kept = restore_database(tmp_path / f"{number}.backup", database_url).kept
        Path(kept).unlink()
        again = open_database(database_url)
        counts.append(len(_fleets(again)))
        again.close()
    assert all(found % 2 == 0 for found in counts)
    assert counts == sorted(counts)


def test_a_backup_overwrites_no_file(database, tmp_path):
    file = tmp_path / "fleet.backup"
    file.write_text("precious")
    with pytest.raises(DatabaseError, match="exists; remove it"):
        back_up_database(database, file)
    assert file.read_text() == "precious"
    with pytest.raises(DatabaseError, match="does not exist; create it"):
        back_up_database(database, tmp_path / "missing" / "fleet.backup")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_calibrator_that_runs_prevents_a_restore(database, database_url, tmp_path):
    _add(database, "a")
    file = tmp_path / "fleet.backup"
    leases = Leases(database, "shop")
    leases.acquire([leader_lease("shop")])
    back_up_database(database, file)
    with pytest.raises(DatabaseError, match=r"a calibrator uses the database.*stop it"):
        restore_database(file, database_url)
    leases.release([leader_lease("shop")])
    database.close()
    restore_database(file, database_url)
    again = open_database(database_url)
    with again.reading() as session:
        assert session.scalars(select(LeaseRow).where(LeaseRow.expires_at > 0)).all() == []
    again.close()


def test_a_backup_of_a_newer_version_is_refused(database, database_url, tmp_path):
    file = tmp_path / "fleet.backup"
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    back_up_database(database, file)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :schema"), {"schema": newest_revision()})
    database.close()
    with pytest.raises(DatabaseError, match=r"schema '9999'.*upgrade edgeexit"):
        restore_database(file, database_url)
    again = open_database(database_url)
    assert _fleets(again) == []
    again.close()


def test_another_file_is_no_backup_and_changes_nothing(database, database_url, tmp_path):
    _add(database, "a")
    database.close()
    other = tmp_path / "other"
    with pytest.raises(DatabaseError, match="does not exist"):
        restore_database(other, database_url)
    with pytest.raises(DatabaseError, match="cannot be read: Is a directory"):
        restore_database(tmp_path, database_url)
    for content in (b"", b"no database" * 1000):
        other.write_bytes(content)
        with pytest.raises(DatabaseError, match="choose another file"):
            restore_database(other, database_url)
    again = open_database(database_url)
    assert _fleets(again) == ["a"]
    again.close()


@ON_SQLITE
def test_a_damaged_backup_is_refused(database, database_url, tmp_path):
    _add(database, *(f"fleet-{number}" for number in range(2000)))
    file = tmp_path / "fleet.backup"
    back_up_database(database, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = os.urandom(4096)
    file.write_bytes(content)
    with pytest.raises(DatabaseError, match=r"damaged|malformed"):
        restore_database(file, database_url)
    assert len(_fleets(database)) == 2000


@ON_SQLITE
def test_another_database_of_sqlite_is_no_backup(database, database_url, tmp_path):
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(DatabaseError, match="no database of a calibrator"):
        restore_database(tmp_path / "other", database_url)


@ON_SQLITE
def test_a_damaged_database_can_be_replaced(database, database_url, tmp_path):
    _add(database, "a")
    back_up_database(database, tmp_path / "fleet.backup")
    database.close()
    (tmp_path / "calibrator.sqlite").write_bytes(b"damaged" * 10_000)
    restored = restore_database(tmp_path / "fleet.backup", database_url)
    again = open_database(database_url)
    assert _fleets(again) == ["a"]
    again.close()
    assert Path(restored.kept).read_bytes().startswith(b"damaged")


@ON_SQLITE
def test_a_missing_database_is_restored(database, database_url, tmp_path):
    _add(database, "a")
    back_up_database(database, tmp_path / "fleet.backup")
    database.close()
    for file in tmp_path.glob("calibrator.sqlite*"):
        file.unlink()
    assert restore_database(tmp_path / "fleet.backup", database_url).kept is None
    again = open_database(database_url)
    assert _fleets(again) == ["a"]
    again.close()


@ON_SQLITE
def test_a_full_disk_leaves_no_part_of_a_backup(database, tmp_path):
    _add(database, *(f"fleet-{number}" for number in range(2000)))
    with small_disk(tmp_path / "small", kilobytes=256) as disk:
        with pytest.raises(DatabaseError, match=r"needs .* MB, but its disk has"):
            back_up_database(database, disk / "fleet.backup")
        assert list(disk.iterdir()) == []


@ON_POSTGRESQL
def test_without_pg_dump_the_error_names_what_to_install(database, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DatabaseError, match="pg_dump is not installed; install the client programs"):
        back_up_database(database, tmp_path / "fleet.backup")


@ON_POSTGRESQL
def test_an_error_of_pg_dump_contains_no_password(database, tmp_path):
    server = postgres()
    server.stop()
    database.close()
    with pytest.raises(DatabaseError) as caught:
        back_up_database(database, tmp_path / "fleet.backup")
    server.start()
    assert server.password not in str(caught.value)
    assert "\n" not in str(caught.value)


@ON_POSTGRESQL
def test_a_dump_that_ends_early_changes_nothing(database, database_url, tmp_path):
    _add(database, *(f"fleet-{number}" for number in range(5000)))
    file, short = tmp_path / "fleet.backup", tmp_path / "short.backup"
    back_up_database(database, file)
    content = file.read_bytes()
    for missing in (500, 5000, 20_000):  # psql gets a script that ends in a table, mostly within a line
        short.write_bytes(content[:-missing])
        check_postgresql(short, shown=short)  # the beginning of the file is in order
        with pytest.raises(DatabaseError, match="pg_restore failed"):
            restore_postgresql(short, parse_url(database_url))
        assert len(_fleets(database)) == 5000


@ON_POSTGRESQL
def test_a_restore_that_psql_cannot_finish_changes_nothing_and_says_why(database, database_url, tmp_path):
    _add(database, "a")
    file = tmp_path / "fleet.backup"
    back_up_database(database, file)
    _add(database, "b")
    with database.writing() as session:
        session.execute(text("ALTER TABLE shard RENAME TO shards_of_another_program"))
    with pytest.raises(DatabaseError, match=r"psql failed: .*already exists") as caught:
        restore_postgresql(file, parse_url(database_url))
    assert postgres().password not in str(caught.value)
    assert _fleets(database) == ["a", "b"]
