"""A cache in memory with a limit on its entries and on their bytes; the entry that was added first goes first."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class BoundedCache(Generic[_Key, _Value]):
    """Remembers what the database contains. Only one thread may use it.

    Args:
        max_entries: maximum number of entries.
        max_bytes: maximum sum of the sizes of the entries.
        size_of: returns the size of an entry in bytes; it must not change while the entry is in the cache.

    """

    def __init__(
        self, max_entries: int, *, max_bytes: int = 2**62, size_of: Callable[[_Value], int] = lambda _: 0
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._bytes = 0
        self._entries: dict[_Key, _Value] = {}
        self.get: Final[Callable[[_Key], _Value | None]] = self._entries.get
        """Returns an entry, or None. The method of the dictionary itself, because it is called for every message."""

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def put(self, key: _Key, value: _Value) -> None:
        """Add or replace an entry, which keeps its place; remove those that were added first while there is no room."""
        entries, size_of = self._entries, self._size_of
        replaced = entries.get(key)
        if replaced is not None:
            self._bytes -= size_of(replaced)
        entries[key] = value
        self._bytes += size_of(value)
        while len(entries) > self._max_entries or self._bytes > self._max_bytes:
            self._bytes -= size_of(entries.pop(next(iter(entries))))

    def clear(self) -> None:
        """Remove every entry."""
        self._entries.clear()
        self._bytes = 0
