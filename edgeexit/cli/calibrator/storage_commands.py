"""`edgeexit calibrator backup`, `restore`, `migrate` and `vacuum`: what a user does to the whole database."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, JsonOption
from edgeexit.console import console, next_step, print_json, print_table, printable, show_progress

_MB = 1e6
_GB = 1e9


def backup_command(
    file: Annotated[Path, typer.Argument(help="New file for the backup; only its owner may read it.", metavar="FILE")],
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Write everything that the database contains into one file, while the calibrator runs, and check the file.

    Of PostgreSQL it is a dump of pg_dump in the custom format. Example: `edgeexit calibrator backup fleet.backup`
    """
    from edgeexit_calibration import back_up_database, open_database

    store = open_database(database, create=False, migrates=False)
    with show_progress("backup") as progress:
        written = back_up_database(store, file, report=progress.advance)
    store.close()
    if as_json:
        print_json(written)
        return
    console.print(f"{printable(written.file)}: {written.bytes / _MB:.1f} MB, schema {written.schema}, checked")
    next_step("copy the file to another machine; `edgeexit calibrator restore FILE` restores it")


def restore_command(
    file: Annotated[Path, typer.Argument(help="A file that `edgeexit calibrator backup` wrote.", metavar="FILE")],
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Replace the database by a backup. Stop the calibrator before. The replaced database is kept in another file.

    Devices send what they have kept again. A device may run a policy that is newer than the backup: the calibrator
    publishes the policy of the backup under a higher number, as soon as such a device reports.

    Example: `edgeexit calibrator restore fleet.backup --database calibrator.sqlite`
    """
    from edgeexit_calibration import restore_database

    with show_progress("restore"):
        restored = restore_database(file, database)
    if as_json:
        print_json(restored)
        return
    console.print(f"{printable(restored.database)} contains {printable(file)}, schema {restored.schema}")
    if restored.kept is not None:
        console.print(f"what it contained before is in {printable(restored.kept)}; delete it when all is well")
    console.print(
        "if the broker retains newer policies that this calibrator signed, those of the backup get higher numbers; if "
        "it has lost them, see `edgeexit calibrator accept-revision`"
    )
    next_step("edgeexit calibrator migrate, then edgeexit calibrator run")


def migrate_command(
    database: DatabaseOption = DATABASE,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; the exit code is 1 if a migration is due.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a database of an earlier version to the schema of this one. `run` and the other commands do it, too.

    Take a backup before: there is no way back. Example: `edgeexit calibrator migrate --check`
    """
    from edgeexit_calibration import migrate_database, schema_state

    found = schema_state(database)
    if not check and found.is_due:
        with show_progress("migration"):
            migrate_database(database)
    if as_json:
        print_json(found)
    elif not found.is_due:
        console.print(f"schema {found.newest} is up to date")
    elif check:
        console.print(f"schema {found.found} is to be migrated to {found.newest}")
        next_step("edgeexit calibrator backup FILE, then edgeexit calibrator migrate")
    else:
        console.print(f"migrated from schema {found.found} to {found.newest}")
        next_step("edgeexit calibrator run")
    if check and found.is_due:
        raise typer.Exit(1)


def vacuum_command(
    database: DatabaseOption = DATABASE,
    max_database_gb: Annotated[
        float | None, typer.Option(help="Maximum size, as `edgeexit calibrator run` gets it.", min=0.001)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be merged and deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete what is too old now, as the calibrator does in the background, and give the space back to the disk.

    On SQLite, a running calibrator stores nothing while the file is rewritten; devices send again.
    Example: `edgeexit calibrator vacuum --dry-run`
    """
    from datetime import datetime, timezone

    import msgspec
    from edgeexit_calibration import Retention, due_maintenance, maintain, open_database, vacuum_database

    store = open_database(database, create=False)
    max_bytes = None if max_database_gb is None else int(max_database_gb * _GB)
    retention, now = Retention(max_bytes=max_bytes), datetime.now(timezone.utc)
    sizes = None
    if dry_run:
        done = due_maintenance(store, retention, now=now)
    else:
        with show_progress("vacuum"):
            done = maintain(store, retention, now=now)
            sizes = vacuum_database(store)
    store.close()
    if as_json:
        print_json({"rows": done, "bytes": sizes, "dry_run": dry_run})
        return
    rows = [(name.replace("_", " "), str(count)) for name, count in msgspec.structs.asdict(done).items()]
    print_table("Would be done" if dry_run else "Done", ("what", "rows"), rows)
    if sizes is not None:
        console.print(f"{sizes.before / _MB:.1f} MB before, {sizes.after / _MB:.1f} MB after")
    next_step("edgeexit calibrator vacuum" if dry_run else "edgeexit calibrator status")
