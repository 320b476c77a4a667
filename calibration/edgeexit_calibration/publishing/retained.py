"""Keeps retained messages at the broker: publishes them again after a reconnect, a replacement or a refusal.

The calibrator subscribes to the topics that it publishes. The broker delivers the messages of a topic in order. A
message that arrives before the echo of our message is older, and our message has replaced it. A message that arrives
after the echo has replaced our message, so ours is published again.
"""

import logging
import math
import threading
import time
from datetime import datetime
from typing import Final

import msgspec

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import BrokerSession, Publication

_log = logging.getLogger(__name__)

_REPLACED_PAUSE_S: Final = 10.0
"""Minimum time between two publications on a topic to which another client publishes too."""
_REFUSED_PAUSE_S: Final = 60.0
"""Minimum time until a message that the broker refused is published again."""


class _TopicState(msgspec.Struct, kw_only=True):
    """The state of a topic over the current connection. Fields in `_s` are monotonic seconds."""

    version: int | None = None
    """The version that was sent and neither refused nor replaced; None if the message must be sent."""
    payload: bytes = b""
    publication: Publication | None = None
    sent_at: datetime | None = None
    sent_s: float = -math.inf
    echoed: bool = False
    """Whether the broker has delivered the payload back."""
    not_before_s: float = -math.inf
    """Earliest time of the next publication."""


class RetainedTopics:
    """What this client has published on its retained topics.

    `on_message` may be called in another thread than the other methods.

    Args:
        session: connection to the broker. It must pass the messages of the topics to `on_message`.
        what: the kind of message, for log messages.

    """

    def __init__(self, session: BrokerSession, *, what: str) -> None:
        self._session = session
        self._what = what
        self._repeats = LimitedLog(_log)
        self._lock = threading.Lock()
        self._topics: dict[str, _TopicState] = {}

    def reset(self) -> None:
        """Treat every message as not published, because the broker may have lost its retained messages."""
        with self._lock:
            self._topics = {
                topic: _TopicState(not_before_s=state.not_before_s) for topic, state in self._topics.items()
            }

    def on_message(self, topic: str, payload: bytes) -> bool:
        """Compare a message with the published one; if it replaced ours, ours becomes due again.

        Returns True if it is ours.
        """
        with self._lock:
            state = self._topics.get(topic)
            if state is None or state.version is None:
                return False
            if payload == state.payload:
                state.echoed = True
                return True
            if state.echoed:
                self._repeats.warning(
                    (topic, "replaced"),
                    "%s: the %s %d was %s; it is published again; does another client publish there?",
                    topic,
                    self._what,
                    state.version,
                    "replaced" if payload else "cleared",
                )
                self._postpone(state, _REPLACED_PAUSE_S)
            return False

    def is_due(self, topic: str, version: int) -> bool:
        """Return True if this version of a message is to be published now."""
        with self._lock:
            state = self._topics.setdefault(topic, _TopicState())
            publication = state.publication
            if publication is not None and publication.refused is not None and state.version is not None:
                self._repeats.warning(
                    (topic, "refused"),
                    "%s: the %s %d was refused by the broker (%s); next attempt in %g s; does its ACL let the "
                    "calibrator write there?",
                    topic,
                    self._what,
                    state.version,
                    publication.refused,
                    _REFUSED_PAUSE_S,
                )
                self._postpone(state, _REFUSED_PAUSE_S)
            return state.version != version and time.monotonic() >= state.not_before_s

    def send(self, topic: str, version: int, payload: bytes, *, now: datetime) -> bool:
        """Publish a message; return False if there is no connection."""
        with self._lock:
            state = self._topics[topic]  # changed before sending, because the broker may respond at once
            state.version, state.payload, state.echoed, state.publication = version, payload, False, None
            state.sent_at, state.sent_s = now, time.monotonic()
        try:
            publication = self._session.publish(topic, payload, retain=True)
        except MessageError as error:  # larger than the broker permits
            self._repeats.warning((topic, "too large"), "%s: %s %d: %s", topic, self._what, version, error)
            with self._lock:
                self._postpone(state, _REFUSED_PAUSE_S)
            return True
        with self._lock:
            if publication is None:
                state.version = None
            else:
                state.publication = publication
        return publication is not None

    def accepted_at(self, topic: str, version: int) -> datetime | None:
        """Return when a version was sent that the broker has accepted, or None."""
        with self._lock:
            state = self._topics.get(topic)
            if state is None or state.version != version:
                return None
            is_accepted = state.echoed or (state.publication is not None and state.publication.acked)
            return state.sent_at if is_accepted else None

    @staticmethod
    def _postpone(state: _TopicState, pause_s: float) -> None:
        state.version, state.publication = None, None
        state.not_before_s = max(time.monotonic(), state.sent_s + pause_s)
