"""Logs one line every ten minutes: what was stored and dropped, what waits, and what this process owns."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 600.0


class Health(NamedTuple):
    """The state of a process; numbers since its start."""

    stored: int
    dropped: int
    waiting: int
    """Messages that were received and are not stored yet."""
    commit_s: float
    """Duration of the last batch, which the messages that wait are behind."""
    shards: str
    leads: bool


def health_line(before: Health, now: Health, span_s: float) -> str:
    """Return one line for the log."""
    rate = (now.stored - before.stored) / span_s
    return (
        f"health: {rate:,.1f} messages/s stored, {now.dropped - before.dropped:,} dropped, {now.waiting:,} waiting, "
        f"last commit {1000 * now.commit_s:,.0f} ms, shards: {now.shards}, "
        f"{'leader' if now.leads else 'not leader'}"
    )


def log_health(state: Callable[[], Health], stop: threading.Event, *, interval_s: float = _INTERVAL_S) -> None:
    """Log a line once per interval until `stop` is set."""
    before, begin = state(), time.monotonic()
    while not stop.wait(interval_s):
        now, end = state(), time.monotonic()
        _log.info("%s", health_line(before, now, end - begin))
        before, begin = now, end
