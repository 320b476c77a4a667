"""The database: the migrations create the schema of the tables; an error is one line."""

import contextlib
import os
import sqlite3
import stat

import pytest
from alembic import command
from edgeexit_calibration import DatabaseError, open_database
from edgeexit_calibration.store.schema import migration_config
from edgeexit_calibration.store.table_base import TableBase
from sqlalchemy import inspect

from tests.calibration.database_kinds import ON_SQLITE


def test_a_new_database_has_the_schema_of_the_tables(database):
    with database.reading() as session:
        command.check(migration_config(session.connection()))  # raises if they differ
        assert set(TableBase.metadata.tables) <= set(inspect(session.connection()).get_table_names())


@ON_SQLITE
def test_commits_are_durable_and_readers_do_not_block_writers(database):
    with database.reading() as session:
        connection = session.connection()
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        with database.writing() as writer:
            writer.connection().exec_driver_sql("DELETE FROM event")


def test_a_path_and_a_url_open_the_same_database(tmp_path):
    path = tmp_path / "with 100% space.sqlite"
    open_database(str(path)).close()
    open_database(f"sqlite:///{path}", create=False).close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "has no file name"),
        ("oracel://host/x", "unknown database type 'oracel'"),
        ("://x", "is not a valid URL"),
        ("no/such/folder/x.sqlite", "does its folder exist"),
    ],
)
def test_an_invalid_url_is_a_one_line_error(url, message):
    with pytest.raises(DatabaseError, match=message) as caught:
        open_database(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h/db",
        "postgresql://u:not@secret@h/db",
        "postgresql://u:@secret@h/db",
        "postgresql://u/x:secret@h/db",
        "postgresql://u:x:secret@h/db",
        "postgresql://u:x/secret@h/db",
        "postgresql://u:x?secret@h/db",
        "postgresql://u:x#secret@h/db",
        "postgresql://u:secret@secret.invalid/db",
        "postgresql://u:secret@h/secret",
        "postgresql://u:secret@/db?host=/secret",
        "postgresql://h/db?password=secret&password=secret",
        "postgresql://h/db?options=secret",
        "postgresql://h/db?secret=x",
        "postgresql+psycopg2://u:secret@h/db",
        "postgresql://h/db?user=u&password=secret",
        "postgresql://u:secret@h:port/db",
        "oracel://u:secret@h/db",
        "://u:secret@h/db",
        "sqlite://u:secret@h/db",
        "sqlite://u:secret@",
    ],
)
def test_an_error_does_not_contain_the_password_of_a_url(url):
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["{0}", "sqlite:///{0}", "sqlite:///file:{0}?uri=true"])
def test_only_the_owner_may_read_the_files_of_a_database(tmp_path, url):
    file = tmp_path / "c.sqlite"
    before = os.umask(0o022)
    try:
        opened = open_database(url.format(file))
    finally:
        os.umask(before)
    with opened.reading() as session:
        session.connection()
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    opened.close()
    file.chmod(0o644)
    open_database(url.format(file), create=False).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_opening_without_create_creates_no_database(tmp_path):
    with pytest.raises(DatabaseError, match=r"database '.*x\.sqlite' does not exist"):
        open_database(str(tmp_path / "x.sqlite"), create=False)
    assert not (tmp_path / "x.sqlite").exists()


def test_a_damaged_file_is_an_error_and_is_not_changed(tmp_path):
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(DatabaseError, match="damaged"):
        open_database(str(path))
    assert path.read_bytes().startswith(b"this is no database")


def test_a_locked_database_is_an_error(tmp_path):
    path = tmp_path / "x.sqlite"
    opened = open_database(str(path), busy_timeout_s=0.1)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match="another process is writing"), opened.writing():
        pass
    other.rollback()
    with opened.writing():
        pass


def test_a_removed_or_replaced_file_is_an_error_and_is_not_created_again(tmp_path):
    path, aside = tmp_path / "x.sqlite", tmp_path / "aside.sqlite"
    opened = open_database(str(path))
    path.rename(aside)
    for using in (opened.writing, opened.reading):
        with pytest.raises(DatabaseError, match="removed or replaced"), using():
            pass
        assert not path.exists()
    open_database(str(path)).close()
    with pytest.raises(DatabaseError, match="removed or replaced"), opened.writing():
        pass
    aside.replace(path)
    with opened.writing():
        pass
    opened.close()


def test_a_commit_to_a_file_that_was_removed_meanwhile_is_an_error(tmp_path):
    opened = open_database(str(tmp_path / "x.sqlite"))
    with pytest.raises(DatabaseError, match="removed or replaced"), opened.writing():
        (tmp_path / "x.sqlite").unlink()
    opened.close()


@pytest.mark.parametrize("content", [None, "CREATE TABLE t (x)"])
def test_another_file_is_an_error_for_readers_and_is_not_changed(tmp_path, content):
    path = tmp_path / "x.sqlite"
    path.touch()
    if content is not None:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute(content)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="empty or not a calibrator database") as caught:
        open_database(str(path), create=False)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_newer_schema_is_an_error_and_is_not_changed(tmp_path):
    path = tmp_path / "x.sqlite"
    open_database(str(path)).close()
    newer = sqlite3.connect(path)
    newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.commit()
    with pytest.raises(DatabaseError, match=r"schema '9999'.*upgrade edgeexit"):
        open_database(str(path))
    assert newer.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
