"""Handles the signed messages from the cloud in a thread of its own, which uses a bounded fraction of a processor.

Verifying a signature takes the longest of all that a message makes the agent do, and anyone whom the broker lets
publish can cause it. Therefore the network thread only stores messages, and this thread rests after each one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from edgeexit.limited_log import LimitedLog

_log = logging.getLogger(__name__)

_PER_SECOND: Final = 10.0
"""Maximum number of messages handled per second, beyond a burst of as many."""
_REST: Final = 9.0
"""After a message, the thread rests for this multiple of the processor time that the message took."""
_TICK_S: Final = 1.0

Handler = Callable[[bytes], None]


class Topic(NamedTuple):
    """How the messages of one topic are handled."""

    handle: Handler
    """Handles a message, in the thread of the downlink; an error is logged, and the message is dropped."""
    max_waiting: int = 1
    """Messages that may wait. A newer message then replaces the oldest one; for a retained topic, 1."""


class Downlink:
    """Receives messages in any thread, and handles them one after another.

    Args:
        topics: how each topic is handled; a topic whose message has waited for longest is next.
        tick: called every second, in the same thread, and once more at the end.

    """

    def __init__(self, topics: Mapping[str, Topic], *, tick: Callable[[], None]) -> None:
        self._topics = topics
        self._tick = tick
        self._waiting: dict[str, deque[bytes]] = {}
        """Topic -> its messages; the topic that has waited for longest is the first."""
        self._changed = threading.Condition()
        self._stopping = False
        self._credit = _PER_SECOND
        self._credited = time.monotonic()
        self._limited = LimitedLog(_log)
        self._thread = threading.Thread(target=self._run, name="agent-downlink", daemon=True)

    @property
    def receivers(self) -> dict[str, Handler]:
        """Topic -> function that receives its messages and returns at once."""
        return {topic: partial(self._receive, topic) for topic in self._topics}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; messages that wait are dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout=5)
        self._limited.close()

    def _receive(self, topic: str, payload: bytes) -> None:
        with self._changed:
            waiting = self._waiting.setdefault(topic, deque())
            dropped = len(waiting) >= self._topics[topic].max_waiting
            if dropped:
                waiting.popleft()
            waiting.append(payload)
            self._changed.notify_all()
        if dropped:
            self._limited.info(("dropped", topic), "a message on '%s' was replaced by a newer one", topic)

    def _run(self) -> None:
        tick_due = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            if now >= tick_due:
                tick_due = now + _TICK_S
                self._guarded("the periodic checks", self._tick)
                self._limited.flush()
            message = self._next(tick_due)
            if message is not None:
                topic, payload = message
                started = time.thread_time()
                self._guarded(topic, partial(self._topics[topic].handle, payload))
                self._credit -= max(1.0, (time.thread_time() - started) * (_REST + 1) * _PER_SECOND)
        self._guarded("the periodic checks", self._tick)

    def _next(self, deadline: float) -> tuple[str, bytes] | None:
        """Wait until there is a message and credit to handle it; return None at the deadline, or to stop."""
        with self._changed:
            while not self._stopping and (now := time.monotonic()) < deadline:
                self._credit = min(_PER_SECOND, self._credit + (now - self._credited) * _PER_SECOND)
                self._credited = now
                if self._credit >= 1.0 and self._waiting:
                    topic = next(iter(self._waiting))
                    waiting = self._waiting.pop(topic)
                    payload = waiting.popleft()
                    if waiting:
                        self._waiting[topic] = waiting  # behind the other topics
                    return topic, payload
                needed_s = (1.0 - self._credit) / _PER_SECOND if self._waiting else deadline - now
                self._changed.wait(max(0.0, min(needed_s, deadline - now)))
        return None

    def _guarded(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - one message that fails must not end the thread
            text = f"{type(error).__name__}: {error}"
            self._limited.warning((what, text), "%s: %s", what, text)
