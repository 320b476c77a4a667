"""A cache in memory with a limit on its entries and on their bytes; the entry that was unused longest goes first."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

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
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def get(self, key: _Key) -> _Value | None:
        """Return an entry, which counts as used now, or None."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Add or replace an entry; remove others that have been unused longest while there is no room."""
        self.discard(key)
        self._entries[key] = value
        self._bytes += self._size_of(value)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            _, removed = self._entries.popitem(last=False)
            self._bytes -= self._size_of(removed)

    def discard(self, key: _Key) -> None:
        """Remove an entry if there is one."""
        removed = self._entries.pop(key, None)
        if removed is not None:
            self._bytes -= self._size_of(removed)

    def clear(self) -> None:
        """Remove every entry."""
        self._entries.clear()
        self._bytes = 0
