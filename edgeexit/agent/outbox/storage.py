"""Stores the messages of the outbox on the disk, in memory while the disk is not usable, and on the disk again."""

import logging
import math
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.agent.outbox.index import OutboxIndex
from edgeexit.agent.outbox.row_file import RowFile, RowsInMemory, RowStore
from edgeexit.agent.outbox.rows import MessageKey, OutboxEntry, OutboxRow
from edgeexit.errors import EdgeExitError
from edgeexit.limited_log import LimitedLog
from edgeexit.log_text import one_line
from edgeexit.wire import Losses

_log = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 5.0
_MAX_RETRY_S: Final = 300.0
_MAX_READ_ERRORS: Final = 8
"""A disk that has failed this often is not read any more."""
_LOSSES_ID: Final = 0
_MAX_ID: Final = 2**53
"""A larger id is the work of a flipped bit: the messages are then numbered again."""


class OutboxStorage:
    """The rows of the outbox, an index of them, and the count of losses. Not thread-safe.

    Args:
        path: the file.
        settle: called before the file is opened again, because its folder may be a new one.

    Attributes:
        index: the entries of all stored messages.
        losses: messages given up since the outbox was created.
        problem: why the disk is not used, or None.
        retry_at: monotonic seconds from which the disk is tried again, if it is not used.
        next_id: an id above all those in use.

    """

    def __init__(self, path: Path, *, settle: Callable[[], None]) -> None:
        self._path = path
        self._settle = settle
        self._limited = LimitedLog(_log)
        self.index = OutboxIndex()
        self.losses = Losses()
        self.problem: str | None = None
        self.retry_at = 0.0
        self.next_id = _LOSSES_ID + 1
        self._retry_s = _FIRST_RETRY_S
        self._returned_at = -math.inf
        self._stored_losses = Losses()
        self._losses_known = False
        """True if the losses include those that were counted on the disk before this start."""
        self._copied: set[MessageKey] = set()
        """While in memory: messages on the disk that are known, so that a deleted one does not come back."""
        self._left_behind: set[MessageKey] = set()
        """While in memory: messages on the disk that could not be read."""
        self._rows: RowStore = RowsInMemory()
        try:
            self._open_file()
        except (OSError, sqlite3.Error, EdgeExitError) as error:
            self._report_problem(error)

    @property
    def in_memory(self) -> bool:
        """True while the disk is not used."""
        return not isinstance(self._rows, RowFile)

    def count(self, *, largest_bytes: int = 0, **numbers: int) -> None:
        """Add to the losses; the next `write` stores them."""
        old = self.losses
        changed = {name: getattr(old, name) + number for name, number in numbers.items()}
        self.losses = msgspec.structs.replace(old, largest_bytes=max(old.largest_bytes, largest_bytes), **changed)

    def read(self, identifier: int) -> OutboxRow | None:
        """Return a row; None if it is not stored. A damaged one is deleted and counted."""
        if (entry := self.index.get(identifier)) is None:
            return None
        try:
            row = self._rows.read(identifier)
        except sqlite3.Error as error:
            self._leave_disk(error)
            return self._rows.read(identifier)
        if row is None or row.entry != entry:
            self.count(damaged=1)
            self.write(delete=[entry])
            self._limited.warning("damaged", "outbox '%s': a damaged %s was deleted", self._path, entry.kind)
            return None
        return row

    def write(self, *, delete: Iterable[OutboxEntry] = (), insert: Iterable[OutboxRow] = ()) -> None:
        """Change the rows, the losses and the index; on the disk in one transaction."""
        delete, insert = list(delete), list(insert)
        rows = insert if self.losses == self._stored_losses else [*insert, self._losses_row(self.losses)]
        identifiers = [entry.id for entry in delete]
        try:
            self._rows.write(delete=identifiers, insert=rows)
        except sqlite3.Error as error:
            self._leave_disk(error)
            self._copied.update(entry.key for entry in delete)
            self._rows.write(delete=identifiers, insert=rows)
        self._stored_losses = self.losses
        for entry in delete:
            if self.index.get(entry.id) is not None:
                self.index.remove(entry)
            self.forget(entry.key)
        for row in insert:
            self.index.add(row.entry)

    def forget(self, key: MessageKey) -> None:
        """Do not take a message back from the disk if it could not be read when the disk failed."""
        if key in self._left_behind:
            self._left_behind.discard(key)
            self._copied.add(key)

    def maintain(self, now: float) -> bool:
        """Check that the file is still at its path; return from memory to the disk if it is usable.

        `now` is in monotonic seconds. Return True if the messages of disk and memory were merged.
        """
        self._limited.flush()
        if isinstance(self._rows, RowFile) and self._rows.replaced:
            self._leave_disk(OSError("its file was removed or replaced"))
        if isinstance(self._rows, RowFile):
            if now > self._returned_at + _MAX_RETRY_S:
                self._retry_s = _FIRST_RETRY_S
            return False
        if now < self.retry_at:
            return False
        pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _MAX_RETRY_S)
        try:
            self._settle()
            self._open_file()
        except (OSError, sqlite3.Error, EdgeExitError) as error:
            self._report_problem(error)
            self.retry_at = now + pause_s
            return False
        self.problem = None
        # A disk that takes little and fails again is not tried again at once.
        self.retry_at, self._returned_at = now + pause_s, now
        self._limited.info("usable", "outbox '%s' is usable again; it holds %d messages", self._path, len(self.index))
        return True

    def close(self) -> None:
        """Close the file."""
        self._rows.close()
        self._limited.close()

    @staticmethod
    def _losses_row(losses: Losses) -> OutboxRow:
        return OutboxRow(_LOSSES_ID, "losses", "", 0, 0, 0, msgspec.json.encode(losses))

    def _open_file(self) -> None:
        """Open the file, and merge what is on the disk and in memory. Raises OSError, sqlite3.Error or ConfigError."""
        file = RowFile(self._path)
        try:
            self._merge(file)
        except BaseException:
            file.close()
            raise
        self._rows = file
        self._copied, self._left_behind = set(), set()
        self._losses_known = True

    def _merge(self, file: RowFile) -> None:
        memory, stored_losses = self._rows, Losses()
        found: dict[MessageKey, OutboxRow] = {}
        unknown: list[OutboxRow] = []
        superfluous: list[int] = []
        for row in file.rows():
            key = (row.start, row.sequence)
            if row.kind == "losses":
                stored_losses = _decode_losses(row.payload)
            elif key in found or key in self._copied or self.index.find(key) is not None:
                superfluous.append(row.id)
            else:
                unknown.append(row)
            found.setdefault(key, row)
        losses = self.losses if self._losses_known else _sum(self.losses, stored_losses)
        lost = len(self._left_behind - found.keys()) if self._losses_known else file.damaged
        losses = msgspec.structs.replace(losses, damaged=losses.damaged + lost)
        returning = self.problem is not None
        if returning or any(not _LOSSES_ID < row.id <= _MAX_ID for row in unknown):
            # The messages in memory keep their ids; the others come after them.
            next_id = self.next_id + len(unknown)
            unknown = [row._replace(id=self.next_id + place) for place, row in enumerate(unknown)]
            known = [row for row in memory.rows() if row.kind != "losses"]
            file.replace_all((*known, *unknown, self._losses_row(losses)))  # it shows that the disk takes data
        else:
            next_id = max(self.next_id, *(row.id + 1 for row in unknown), _LOSSES_ID + 1)
            file.write(delete=superfluous, insert=() if losses == stored_losses else [self._losses_row(losses)])
        self.losses = losses
        self.next_id, self._stored_losses = next_id, losses
        for row in unknown:
            self.index.add(row.entry)

    def _leave_disk(self, error: Exception) -> None:
        """Continue in memory with the messages that are readable; the others may come back with the disk."""
        memory, errors = RowsInMemory(), 0
        copied: list[OutboxRow] = []
        for entry in self.index:
            row = None
            if errors < _MAX_READ_ERRORS:
                try:
                    row = self._rows.read(entry.id)
                except sqlite3.Error:
                    errors += 1
            if row is not None and row.entry == entry:
                copied.append(row)
                self._copied.add(entry.key)
            else:
                self._left_behind.add(entry.key)
                self.index.remove(entry)
        memory.write(insert=copied)
        self._rows.close()
        self._rows = memory
        self._report_problem(error)

    def _report_problem(self, error: Exception) -> None:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        self.problem = one_line(f"outbox '{self._path}' is not usable ({cause}); messages are kept in memory")
        self._limited.warning("unusable", "%s until it is usable again", self.problem)


def _decode_losses(payload: bytes) -> Losses:
    """Decode stored losses; they start again from 0 if another version has written them."""
    try:
        return msgspec.json.decode(payload, type=Losses)
    except msgspec.DecodeError:
        return Losses()


def _sum(one: Losses, other: Losses) -> Losses:
    return Losses(
        full=one.full + other.full,
        oversized=one.oversized + other.oversized,
        largest_bytes=max(one.largest_bytes, other.largest_bytes),
        refused=one.refused + other.refused,
        damaged=one.damaged + other.damaged,
    )
