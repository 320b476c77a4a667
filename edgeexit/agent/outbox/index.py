"""What is in the outbox, without the payloads, and which messages give way when it is full."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from edgeexit.agent.outbox.rows import MessageKey, OutboxEntry, OutboxKind

_OVERHEAD_BYTES: Final = 256
"""Memory that a message needs besides its payload; it counts towards the size, so that many small ones are bounded."""


class OutboxIndex:
    """The entries of all stored messages, in memory. Finding, adding and removing one does not depend on their number.

    Attributes:
        size: bytes of all payloads, and `_OVERHEAD_BYTES` for each.

    """

    def __init__(self) -> None:
        self._entries: dict[int, OutboxEntry] = {}
        self._ids: dict[MessageKey, int] = {}
        self._order: dict[OutboxKind, list[int]] = {"report": [], "audit": []}
        self._reports: dict[tuple[str, int], list[int]] = {}
        """(start, revision) -> ids of its reports, ascending."""
        self.size = 0

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self._entries)

    def __iter__(self) -> Iterator[OutboxEntry]:
        """Iterate over a copy of the entries, in the order of their ids."""
        return iter([self._entries[identifier] for identifier in sorted(self._entries)])

    def get(self, identifier: int) -> OutboxEntry | None:
        """Return the entry with an id, or None."""
        return self._entries.get(identifier)

    def find(self, key: MessageKey) -> OutboxEntry | None:
        """Return the entry of a message, or None."""
        identifier = self._ids.get(key)
        return None if identifier is None else self._entries[identifier]

    def after(self, kind: OutboxKind, identifier: int, limit: int) -> list[OutboxEntry]:
        """Return the first `limit` entries of a kind with ids above `identifier`, in order."""
        order = self._order[kind]
        first = bisect_left(order, identifier + 1)
        return [self._entries[one] for one in order[first : first + limit]]

    def add(self, entry: OutboxEntry) -> None:
        """Add an entry with a new id and key."""
        self._entries[entry.id] = entry
        self._ids[entry.key] = entry.id
        insort(self._order[entry.kind], entry.id)
        if entry.kind == "report":
            insort(self._reports.setdefault((entry.start, entry.revision), []), entry.id)
        self.size += entry.size + _OVERHEAD_BYTES

    def remove(self, entry: OutboxEntry) -> None:
        """Remove an entry."""
        del self._entries[entry.id]
        del self._ids[entry.key]
        _discard(self._order[entry.kind], entry.id)
        if entry.kind == "report":
            group = self._reports[entry.start, entry.revision]
            _discard(group, entry.id)
            if not group:
                del self._reports[entry.start, entry.revision]
        self.size -= entry.size + _OVERHEAD_BYTES

    def reports(self, start: str, revision: int) -> list[OutboxEntry]:
        """Return the reports of a (start, revision), oldest first."""
        return [self._entries[identifier] for identifier in self._reports.get((start, revision), [])]

    def victims(self, *, size: int, max_bytes: int) -> Iterator[tuple[OutboxEntry, bool]]:
        """Yield the messages to remove so that one of `size` bytes fits, and whether the removal loses something.

        First the oldest reports for which a newer one of the same (start, revision) is stored: counters are cumulative,
        so the windows of the two merge. Then the oldest audits, then the oldest reports.
        """
        left = self.size + size + _OVERHEAD_BYTES
        newest = {group[-1] for group in self._reports.values()} if left > max_bytes else set()
        merged = [one for one in self._order["report"] if one not in newest] if left > max_bytes else []
        last = [one for one in self._order["report"] if one in newest]
        for identifiers, loses in ((merged, False), (self._order["audit"], True), (last, True)):
            for identifier in list(identifiers) if left > max_bytes else ():
                entry = self._entries[identifier]
                yield entry, loses
                left -= entry.size + _OVERHEAD_BYTES
                if left <= max_bytes:
                    return


def _discard(ordered: list[int], value: int) -> None:
    del ordered[bisect_left(ordered, value)]
