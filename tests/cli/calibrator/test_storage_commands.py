"""`edgeexit calibrator backup`, `restore`, `migrate` and `vacuum`."""

import json
import sqlite3

import pytest
from alembic import command
from edgeexit_calibration import open_database
from edgeexit_calibration.store.schema import migration_config, newest_revision
from sqlalchemy import create_engine
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import EdgeExitError


def invoke(*arguments):
    """Run a command in this process; raise its error as the entry point of the CLI receives it."""
    return CliRunner().invoke(calibrator_app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "calibrator.sqlite"
    open_database(str(path)).close()
    return path


@pytest.fixture
def old_file(tmp_path):
    """Return an SQLite file of the first schema."""
    path = tmp_path / "old.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "0001")
    engine.dispose()
    return path


def test_a_backup_is_restored_and_what_was_there_before_is_kept(file, tmp_path):
    backup = tmp_path / "fleet.backup"
    result = invoke("backup", backup, "--database", file)
    assert result.exit_code == 0
    assert f"schema {newest_revision()}, checked" in result.output
    with pytest.raises(EdgeExitError, match=r"fleet\.backup' exists"):
        invoke("backup", backup, "--database", file)
    result = invoke("restore", backup, "--database", file)
    assert "calibrator.sqlite.before-restore; delete it when all is well" in result.output.replace("\n", " ")
    assert "higher numbers" in result.output
    with pytest.raises(EdgeExitError, match=r"before-restore' exists from an earlier restore"):
        invoke("restore", backup, "--database", file)
    (tmp_path / "calibrator.sqlite.before-restore").unlink()
    printed = json.loads(invoke("restore", backup, "--database", file, "--json").stdout)
    assert printed["schema"] == newest_revision()
    assert printed["kept"].endswith(".before-restore")


def test_the_backup_of_an_older_schema_is_restored_and_migrated_later(old_file, tmp_path):
    backup = tmp_path / "old.backup"
    printed = json.loads(invoke("backup", backup, "--database", old_file, "--json").stdout)
    assert printed["schema"] == "0001"
    assert printed["bytes"] == backup.stat().st_size
    invoke("restore", backup, "--database", tmp_path / "new.sqlite")
    assert (
        f"migrated from schema 0001 to {newest_revision()}"
        in invoke("migrate", "--database", tmp_path / "new.sqlite").output
    )


def test_migrate_shows_what_is_due_and_check_changes_nothing(old_file):
    for _ in range(2):
        result = invoke("migrate", "--check", "--database", old_file)
        assert result.exit_code == 1
        assert f"schema 0001 is to be migrated to {newest_revision()}" in result.output
        assert "calibrator backup FILE" in result.output
    assert f"migrated from schema 0001 to {newest_revision()}" in invoke("migrate", "--database", old_file).output
    result = invoke("migrate", "--check", "--database", old_file)
    assert (result.exit_code, "up to date" in result.output) == (0, True)


@pytest.mark.parametrize("arguments", [("migrate", "--check"), ("migrate",), ("vacuum",)])
def test_a_newer_schema_is_an_error(file, arguments):
    newer = sqlite3.connect(file)
    newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.commit()
    newer.close()
    with pytest.raises(EdgeExitError, match=r"schema '9999'.*upgrade edgeexit"):
        invoke(*arguments, "--database", file)


@pytest.mark.parametrize("arguments", [("migrate",), ("vacuum",), ("backup", "x")])
def test_a_missing_database_is_an_error_and_is_not_created(tmp_path, arguments):
    with pytest.raises(EdgeExitError, match="does not exist"):
        invoke(*arguments, "--database", tmp_path / "missing.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_vacuum_shows_the_sizes_and_a_dry_run_changes_nothing(file):
    before = file.read_bytes()
    result = invoke("vacuum", "--database", file, "--dry-run")
    assert "Would be done" in result.output
    assert file.read_bytes() == before
    assert "MB before" in invoke("vacuum", "--database", file).output
    printed = json.loads(invoke("vacuum", "--database", file, "--json").stdout)
    assert printed["bytes"]["after"] > 0
    assert printed["rows"]["deleted_samples"] == 0
