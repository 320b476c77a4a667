"""State folders and databases: only their owner may read them, and those of another user are refused."""

import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeexit.errors import ConfigError
from edgeexit.private_files import make_private_database, make_private_folder

OTHER_USER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_has_mode_0700(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "new" / "state")
    assert mode(tmp_path / "new" / "state") == 0o700


def test_an_open_folder_and_its_files_are_closed_with_a_log_line_for_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    (state / "cache").mkdir(parents=True)
    state.chmod(0o755)
    for name, found in (("outbox.db", 0o644), ("policy.json", 0o640), ("agent.lock", 0o600)):
        (state / name).write_text("")
        (state / name).chmod(found)
    make_private_folder(state)
    assert mode(state) == 0o700
    assert {mode(state / name) for name in ("outbox.db", "policy.json", "agent.lock")} == {0o600}
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert f"'{state}' had mode 0755" in caplog.text
    caplog.clear()
    make_private_folder(state)
    assert caplog.text == ""


def test_a_file_that_vanishes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a second agent would run without the lock, because SQLite in the first one removes its journal."""

    def list_and_remove(handle: int, found: Callable[[int], list[str]] = os.listdir) -> list[str]:
        names = found(handle)
        (tmp_path / "outbox.db-journal").unlink(missing_ok=True)
        return names

    for name in ("a", "outbox.db-journal", "z"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(os, "listdir", list_and_remove)
    make_private_folder(tmp_path)
    assert mode(tmp_path / "a") == mode(tmp_path / "z") == 0o600


def test_a_link_of_the_same_user_is_followed_as_in_a_deployment(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "state").symlink_to("shared")
    make_private_folder(tmp_path / "state")
    assert mode(tmp_path / "shared") == 0o700


@needs_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", OTHER_USER, OTHER_USER)
    with pytest.raises(ConfigError, match=r"state' belongs to another user \(uid 12345\)"):
        make_private_folder(tmp_path / "state")


@needs_root
def test_a_link_that_another_user_planted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "state").symlink_to("own")
    os.chown(tmp_path / "state", OTHER_USER, OTHER_USER, follow_symlinks=False)
    with pytest.raises(ConfigError, match="is a link of another user"):
        make_private_folder(tmp_path / "state")
    assert mode(tmp_path / "own") == 0o755


@needs_root
def test_a_file_of_another_user_in_the_folder_is_refused(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "state")
    (tmp_path / "state" / "outbox.db").write_text("")
    os.chown(tmp_path / "state" / "outbox.db", OTHER_USER, OTHER_USER)
    with pytest.raises(ConfigError, match=r"outbox\.db' belongs to another user"):
        make_private_folder(tmp_path / "state")


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "state")
    (tmp_path / "bashrc").write_text("")
    (tmp_path / "state" / "outbox.db").symlink_to(tmp_path / "bashrc")
    with pytest.raises(ConfigError, match=r"outbox\.db' is a link"):
        make_private_folder(tmp_path / "state")


def test_all_files_of_a_new_database_have_mode_0600(tmp_path: Path) -> None:
    make_private_database(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE one (n)")
        database.commit()
        assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
            "a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600,
        }  # fmt: skip
    database.close()


def test_an_existing_database_and_its_write_ahead_log_are_closed(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "a.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE one (n)")
    database.commit()
    assert mode(tmp_path / "a.db-wal") == 0o644
    make_private_database(tmp_path / "a.db", create=False)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    database.close()


def test_a_database_that_must_exist_is_not_created(tmp_path: Path) -> None:
    make_private_database(tmp_path / "a.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_ignores_modes_is_named_and_nothing_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)  # vfat mounted with the option quiet
    make_private_folder(state)
    assert caplog.messages == [f"'{state}' has mode 0755, and it cannot be changed to 0700: the file system ignores it"]


def test_a_file_system_without_modes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # vfat

    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", refuse)
    make_private_folder(state)
    assert "cannot be changed to 0700: Operation not permitted" in caplog.text
