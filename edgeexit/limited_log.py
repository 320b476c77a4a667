"""Limits how often a log repeats itself: what a remote party or a broken disk can cause again and again."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from edgeexit.log_text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_MAX_KEYS: Final = 64
_FURTHER_KEYS: Final = object()
"""Stands for all keys beyond the maximum number."""
_MIN_UNITS: Final = 2
_UNITS: Final = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
"""A duration is stated in the largest unit of which it has at least two."""


class _Occurrences:
    """The last line of one key, and how often it has occurred since."""

    __slots__ = ("count", "level", "since", "text")

    def __init__(self, level: int, text: str, since: float) -> None:
        self.level = level
        self.text = text
        self.since = since
        """Monotonic seconds of the last line."""
        self.count = 0
        """Occurrences that have not been logged."""


class _Line(NamedTuple):
    level: int
    text: str
    error: BaseException | None = None


class LimitedLog:
    """Logs the first occurrence of a key at once, and then at most one line per interval, with the number of others.

    Occurrences within the interval are counted. The first one after it is logged with their number: `... (312 more in
    the last 10 min)`. If none follows, the last line is repeated with the number, by `flush` or by the next call for
    another key. Call `flush` every minute or so, and `close` at the end.

    Text from outside is safe as an argument and as a part of a key: each argument becomes one printable line of at most
    300 characters. If more than `max_keys` keys occur within an interval, the further ones share a line. Thread-safe.

    Args:
        logger: where the lines go.
        interval_s: minimum seconds between two lines of one key.
        max_keys: maximum number of keys that have lines of their own.
        clock: returns monotonic seconds.

    """

    def __init__(
        self,
        logger: logging.Logger,
        interval_s: float = 600.0,
        *,
        max_keys: int = _MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._max_keys = max_keys
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[Hashable, _Occurrences] = {}
        """The keys of the last interval, the one with the oldest line first."""

    def info(self, key: Hashable, message: str, *args: object) -> None:
        """Log at level INFO; `message` and `args` are those of `logging`."""
        self._log(logging.INFO, key, message, args, None)

    def warning(self, key: Hashable, message: str, *args: object) -> None:
        """Log at level WARNING."""
        self._log(logging.WARNING, key, message, args, None)

    def error(self, key: Hashable, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        """Log at level ERROR, with the traceback of `exc_info`; occurrences that are only counted have none."""
        self._log(logging.ERROR, key, message, args, exc_info)

    def flush(self) -> None:
        """Log the numbers of the keys whose interval is over."""
        with self._lock:
            lines = self._take_due(self._clock())
        self._write(lines)

    def close(self) -> None:
        """Log all numbers, and forget all keys."""
        with self._lock:
            now = self._clock()
            lines = [self._summary(key, one, now) for key, one in self._keys.items() if one.count]
            self._keys.clear()
        self._write(lines)

    def _log(
        self, level: int, key: Hashable, message: str, args: tuple[object, ...], error: BaseException | None
    ) -> None:
        lines: list[_Line] = []
        with self._lock:
            now = self._clock()
            known = self._keys.get(key)
            if known is None or self._is_due(known, now):
                lines = self._take_due(now, except_for=known)
                if known is None and len(self._keys) >= self._max_keys:
                    key, known = _FURTHER_KEYS, self._keys.get(_FURTHER_KEYS)
            if known is not None and not self._is_due(known, now):
                known.count += 1
            else:
                new = _Occurrences(level, _safe_text(message, args), now)
                self._keys.pop(key, None)  # the key with the newest line is the last one
                self._keys[key] = new
                suffix = "" if known is None or not known.count else _suffix(key, known, now)
                lines.append(_Line(level, new.text + suffix, error))
        self._write(lines)

    def _is_due(self, one: _Occurrences, now: float) -> bool:
        return now - one.since >= self._interval_s

    def _take_due(self, now: float, except_for: _Occurrences | None = None) -> list[_Line]:
        """Return the lines of the keys whose interval is over; forget those that have not occurred in it."""
        due: list[tuple[Hashable, _Occurrences]] = []
        for key, one in self._keys.items():
            if not self._is_due(one, now):
                break
            if one is not except_for:
                due.append((key, one))
        lines: list[_Line] = []
        for key, one in due:
            del self._keys[key]
            if one.count:
                lines.append(self._summary(key, one, now))
                self._keys[key] = _Occurrences(one.level, one.text, now)
        return lines

    @staticmethod
    def _summary(key: Hashable, one: _Occurrences, now: float) -> _Line:
        return _Line(one.level, one.text + _suffix(key, one, now))

    def _write(self, lines: list[_Line]) -> None:
        """Write lines, without the lock: a handler may be slow, or log itself."""
        for level, text, error in lines:
            self._logger.log(level, "%s", text, exc_info=error)


def _safe_text(message: str, args: tuple[object, ...]) -> str:
    """Return the message with its arguments; those that are not numbers become one printable line."""
    return message % tuple(one if isinstance(one, int | float) else one_line(str(one)) for one in args)


def _suffix(key: Hashable, one: _Occurrences, now: float) -> str:
    seconds = now - one.since
    size, unit = next((pair for pair in _UNITS if seconds >= _MIN_UNITS * pair[0]), _UNITS[-1])
    others = " of other kinds" if key is _FURTHER_KEYS else ""
    return f" ({one.count:,} more{others} in the last {max(1, round(seconds / size))} {unit})"
