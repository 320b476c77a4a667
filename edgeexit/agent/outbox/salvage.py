"""Finds the rows that are still readable in a damaged file of the outbox."""

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from edgeexit.agent.outbox.committed_log import PAGE_BYTES, CommittedLog
from edgeexit.agent.outbox.rows import OutboxRow, check_row
from edgeexit.agent.outbox.schema import COLUMNS, connect

_MAX_UNREADABLE: Final = 4096
"""Ids tried one by one behind a damaged page, before the rest of the file is given up."""


def read_damaged(path: Path, alone: list[OutboxRow], log: CommittedLog) -> tuple[list[OutboxRow], int]:
    """Return the undamaged rows that can be found in a damaged file, and the number of damaged ones that were seen.

    The file is read with its write-ahead log, whose checksums do not matter, and without it, as it is and with another
    first page. Only copies of it are opened. `alone` are the rows that it had before its log was applied. Raises
    OSError if there is no room for the copies.
    """
    found: dict[tuple[str, int], OutboxRow] = {}
    damaged = 0
    for first_page, with_log in ((False, True), (True, True), (True, False)):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".outbox.") as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            if with_log:
                log.apply(copy)
            if first_page:
                _replace_first_page(copy)
            rows, bad = scan(copy)
        damaged = max(damaged, bad)
        for row in rows:
            found.setdefault((row.start, row.sequence), row)
    for row in alone:
        found.setdefault((row.start, row.sequence), row)
    by_id: dict[int, OutboxRow] = {}
    for row in found.values():  # two rows with one id: the file and a foreign write-ahead log
        identifier = row.id if row.id not in by_id else max(by_id) + 1
        by_id[identifier] = row._replace(id=identifier)
    return list(by_id.values()), max(damaged, 1)


def scan(path: Path, *, options: str = "") -> tuple[list[OutboxRow], int]:
    """Return the undamaged rows of a file, and the number of damaged ones; never raise an error about its content."""
    rows: dict[int, OutboxRow] = {}
    try:
        connection = sqlite3.connect(path.absolute().as_uri() + options, uri=True, timeout=0)
    except sqlite3.Error:
        return [], 0
    with contextlib.closing(connection):
        connection.text_factory = bytes
        damaged = _scan_in_order(connection, rows, first=-1, step=1)
        if damaged:  # behind damage, the order of the ids may be wrong: a row can be found from one side only
            _scan_in_order(connection, rows, first=max(rows, default=0) + _MAX_UNREADABLE, step=-1)
    return list(rows.values()), damaged


def _scan_in_order(connection: sqlite3.Connection, rows: dict[int, OutboxRow], *, first: int, step: int) -> int:
    """Add the undamaged rows to `rows`, upwards (`step` 1) or downwards (-1); return the number of damaged ones."""
    condition = "id > ? ORDER BY id" if step > 0 else "id < ? ORDER BY id DESC"
    query = f"SELECT {COLUMNS} FROM message NOT INDEXED WHERE {condition}"  # noqa: S608 - constants
    damaged, unreadable, last = 0, 0, first
    while unreadable < _MAX_UNREADABLE:
        try:
            for values in connection.execute(query, (last,)):
                unreadable = 0
                last = values[0] if isinstance(values[0], int) else last + step
                if (row := check_row(values)) is None:
                    damaged += 1
                else:
                    rows[row.id] = row
        except (sqlite3.Error, ValueError, OverflowError):  # noqa: PERF203 - the next id may be readable
            damaged += unreadable == 0
            unreadable += 1
            last += step
        else:
            break
    return damaged


def _replace_first_page(path: Path) -> None:
    """Replace the header and the schema, which are the same in every outbox."""
    template = path.with_name("template.db")
    with contextlib.closing(connect(template)):
        pass
    pages = max(path.stat().st_size // PAGE_BYTES, 2)
    page = bytearray(template.read_bytes()[:PAGE_BYTES])
    page[28:32] = pages.to_bytes(4, "big")
    page[92:96] = page[24:28]  # the number of pages is valid for this version
    with path.open("r+b") as file:
        file.write(page)
