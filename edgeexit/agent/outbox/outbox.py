"""Keeps reports and audits until the calibrator acknowledges that its database holds them.

A PUBACK only means that the broker has a message; `down/ack` means that the calibrator has stored it.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgeexit.agent.outbox.rows import OutboxEntry, OutboxKind, OutboxRow
from edgeexit.agent.outbox.storage import OutboxStorage
from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import MAX_BYTES, Ack, Audit, Losses, Report, decode
from edgeexit.wire.audit_parts import split_audit

_log = logging.getLogger(__name__)

FILE: Final = "outbox.db"
_WINDOW_S: Final = 900.0
"""While no report of a (start, revision) is acknowledged, the last one of each period of this length is kept."""
_MAX_PAYLOAD: Final = MAX_BYTES - 512
"""Maximum size of a message; an audit is sent with a signature, a key and the names of their fields."""


class Acknowledged(NamedTuple):
    """What an acknowledgement means for the messages in the outbox, by their ids."""

    stored: tuple[int, ...]
    """Deleted, because the calibrator has them."""
    refused: tuple[int, ...]
    """Deleted and counted, because the calibrator will never take them."""
    postponed: tuple[int, ...]
    """Kept; the calibrator may take them later."""


class Outbox:
    """A bounded, durable queue of messages. Thread-safe, but inference must not call it, because it writes to the disk.

    If the disk is not usable (read-only, full, damaged, removed), the outbox continues in memory, with the same bound,
    and `problem` says why. It returns to the disk when `maintain` finds it usable, with the messages of both.

    Args:
        folder: state folder; it is created if it does not exist.
        max_bytes: maximum size of all messages together.
        settle: called before the outbox opens the folder again, which may be a new one.

    Attributes:
        start: random name of this start of the agent. With the sequence number, which starts at 1, it names a message
            for ever, also if the file is lost, restored from an older copy, or copied to another device.

    """

    def __init__(self, folder: Path, *, max_bytes: int, settle: Callable[[], None] = lambda: None) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._limited = LimitedLog(_log)
        self.start: Final = secrets.token_hex(8)
        self._sequence = 0
        self._too_large: str | None = None
        self._storage = OutboxStorage(folder / FILE, settle=settle)
        with self._lock:
            self._storage.write(delete=self._make_room())

    @property
    def losses(self) -> Losses:
        """Messages given up since the outbox was created."""
        return self._storage.losses

    @property
    def count(self) -> int:
        """Number of unacknowledged messages; does not read the disk."""
        return len(self._storage.index)

    @property
    def in_memory(self) -> bool:
        """True while the disk is not used."""
        return self._storage.in_memory

    @property
    def problem(self) -> str | None:
        """Why the disk is not used, or which message was too large to be sent; None if all is well."""
        return self._storage.problem or self._too_large

    @property
    def maintain_at(self) -> float:
        """Monotonic seconds from which `maintain` tries the disk again, if the outbox is in memory."""
        return self._storage.retry_at

    def add(self, message: Report | Audit) -> None:
        """Store a message; `start`, `sequence` and a report's `losses` are set here.

        A report replaces an older one of the same (start, revision) and the same quarter of an hour of uptime. If the
        outbox is full, the oldest messages give way, see `OutboxIndex.victims`. An audit that is larger than the
        outbox or the wire allows is split; anything else of that size is dropped and counted.
        """
        with self._lock:
            waiting = [message]
            while waiting:
                numbered, payload = self._number(waiting.pop())
                if len(payload) <= min(_MAX_PAYLOAD, self._max_bytes // 2):
                    self._store(numbered, payload)
                elif isinstance(numbered, Audit) and len(numbered.samples) > 1:
                    half = len(numbered.samples) // 2
                    halves = (numbered.samples[half:], numbered.samples[:half])
                    waiting += [msgspec.structs.replace(numbered, samples=samples) for samples in halves]
                else:
                    self._storage.count(oversized=1, largest_bytes=len(payload))
                    self._storage.write()
                    self._warn_oversized(type(numbered).__name__, len(payload), "outbox_max_bytes or the wire allows")

    def acknowledge(self, ack: Ack) -> Acknowledged:
        """Delete the messages that the calibrator has stored, or refuses finally; count the refused ones.

        A stored report makes older ones of the same (start, revision) useless, so they are deleted, too.
        """
        with self._lock:
            stored: dict[int, OutboxEntry] = {}
            for sequence in ack.sequences:
                if (entry := self._storage.index.find((ack.start, sequence))) is not None:
                    stored[entry.id] = entry
                    if entry.kind == "report":
                        reports = self._storage.index.reports(entry.start, entry.revision)
                        stored.update((one.id, one) for one in reports if one.sequence < sequence)
                else:
                    self._storage.forget((ack.start, sequence))
            refused: dict[int, OutboxEntry] = {}
            postponed: list[int] = []
            for refusal in ack.refused:
                entry = self._storage.index.find((ack.start, refusal.sequence))
                if entry is None or entry.id in stored:
                    continue
                if refusal.final:
                    refused[entry.id] = entry
                    what = "refuses %s %d, which is deleted: %s"
                else:
                    postponed.append(entry.id)
                    what = "does not take %s %d yet: %s"
                self._limited.warning(
                    ("refused", refusal.final), f"the calibrator {what}", entry.kind, entry.sequence, refusal.reason
                )
            if stored or refused:
                self._storage.count(refused=len(refused))
                self._storage.write(delete=[*stored.values(), *refused.values()])
        return Acknowledged(tuple(stored), tuple(refused), tuple(postponed))

    def pending(self, kind: OutboxKind, *, after: int = 0, limit: int) -> list[OutboxEntry]:
        """Return the first `limit` messages of a kind with ids above `after`, oldest first; does not read the disk."""
        with self._lock:
            return self._storage.index.after(kind, after, limit)

    def get(self, identifier: int) -> OutboxEntry | None:
        """Return a message that is neither acknowledged, dropped nor replaced, else None; does not read the disk."""
        return self._storage.index.get(identifier)

    def payload(self, identifier: int) -> bytes | None:
        """Return the JSON of a message; None if it is not stored any more.

        A message that is damaged on the disk is deleted and counted.
        """
        with self._lock:
            row = self._storage.read(identifier)
        return None if row is None else row.payload

    def split(self, identifier: int) -> bool:
        """Replace an audit by its two halves, in one transaction.

        Return False if it has only one sample, or if another version has stored it in a form that is not known now.
        """
        with self._lock:
            entry, row = self._storage.index.get(identifier), self._storage.read(identifier)
            if entry is None or row is None or entry.kind != "audit":
                return False
            try:
                audit = decode(row.payload, Audit)
            except MessageError:
                return False
            if len(audit.samples) == 1:
                return False
            halves = [
                self._row(half, msgspec.json.encode(half))
                for half in split_audit(audit)
                if self._storage.index.find((half.start, half.sequence)) is None
            ]
            self._storage.write(delete=[entry], insert=halves)
            return True

    def drop_oversized(self, identifier: int, *, size: int, limit: str) -> None:
        """Delete a message that cannot be sent, and count it with its size; `limit` says what it is larger than."""
        with self._lock:
            if (entry := self._storage.index.get(identifier)) is not None:
                self._storage.count(oversized=1, largest_bytes=size)
                self._storage.write(delete=[entry])
                self._warn_oversized(entry.kind, size, limit)

    def forget_too_large(self) -> None:
        """Report a message that was too large no more, because the next connection may have another limit."""
        self._too_large = None

    def maintain(self, now: float) -> None:
        """Check that the file is still at its path; return from memory to the disk if it is usable. Call it regularly.

        `now` is in monotonic seconds. Failures are repeated after 5 s, and then less and less often.
        """
        with self._lock:
            self._limited.flush()
            if self._storage.maintain(now):
                self._storage.write(delete=self._make_room())

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._storage.close()
            self._limited.close()

    def _number(self, message: Report | Audit) -> tuple[Report | Audit, bytes]:
        self._sequence += 1
        message = msgspec.structs.replace(message, start=self.start, sequence=self._sequence)
        if isinstance(message, Report):
            message = msgspec.structs.replace(message, losses=self._storage.losses)
        return message, msgspec.json.encode(message)

    def _store(self, message: Report | Audit, payload: bytes) -> None:
        row = self._row(message, payload)
        replaced = [
            one
            for one in self._storage.index.reports(row.start, row.revision)
            if isinstance(message, Report) and one.window == row.window
        ]
        for entry in replaced:
            self._storage.index.remove(entry)
        self._storage.write(delete=[*replaced, *self._make_room(len(payload))], insert=[row])

    def _row(self, message: Report | Audit, payload: bytes) -> OutboxRow:
        is_report = isinstance(message, Report)
        row = OutboxRow(
            self._storage.next_id,
            "report" if is_report else "audit",
            message.start,
            message.sequence,
            message.revision,
            int(message.uptime_s // _WINDOW_S) if isinstance(message, Report) else 0,
            payload,
        )
        self._storage.next_id += 1
        return row

    def _make_room(self, size: int = 0) -> list[OutboxEntry]:
        """Choose the messages to delete so that one of `size` bytes fits, and count the losses."""
        victims = list(self._storage.index.victims(size=size, max_bytes=self._max_bytes))
        self._storage.count(full=sum(loses for _, loses in victims))
        return [entry for entry, _ in victims]

    def _warn_oversized(self, what: str, size: int, limit: str) -> None:
        self._too_large = f"{what} of {size} bytes dropped: it is larger than {limit}"
        self._limited.warning("oversized", "%s", self._too_large)
