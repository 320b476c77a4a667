"""Notices a calibrator of the same fleet that uses another database, by a signed, retained message at the broker.

Two databases would both store every message and publish policies of their own. A calibrator that starts while another
one is present refuses to start. `--take-over` overrides that: the new one announces a higher term, and the other ends.
Messages that none of our keys signed are ignored, so that no device can end a calibrator.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from edgeexit.errors import EdgeExitError, SignatureError
from edgeexit.limited_log import LimitedLog
from edgeexit.signing import PrivateKey, sign, verify
from edgeexit.wire import (
    PRESENCE_TYPE,
    BrokerConfig,
    BrokerSession,
    CalibratorPresence,
    Delivery,
    SessionOptions,
    presence_topic,
)

_log = logging.getLogger(__name__)

_CONNECT_S: Final = 3.0
_RETAINED_S: Final = 0.5
"""A broker sends the retained message within this time after the subscription."""
_LOOK_S: Final = 0.1
_PAUSE_S: Final = 10.0
"""Minimum time between two publications."""


class OtherInstallationError(EdgeExitError):
    """A calibrator with another database serves the fleet."""


def read_presence(payload: bytes, *, fleet: str, keys: Sequence[PrivateKey]) -> CalibratorPresence | None:
    """Return what a message says, or None if it is empty, invalid, or not signed by one of our keys."""
    try:
        signed = verify(payload, payload_type=PRESENCE_TYPE, keys=[key.public_key() for key in keys])
        presence = msgspec.json.decode(signed, type=CalibratorPresence)
    except (SignatureError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None
    return presence if presence.fleet == fleet else None


def find_presence(
    broker: BrokerConfig, *, fleet: str, client_id: str, keys: Sequence[PrivateKey]
) -> CalibratorPresence | None:
    """Return the presence at the broker, or None if there is none or the broker cannot be reached within seconds."""
    found: list[CalibratorPresence] = []
    arrived = threading.Event()

    def receive(delivery: Delivery) -> None:
        if (presence := read_presence(delivery.payload, fleet=fleet, keys=keys)) is not None:
            found.append(presence)
        elif delivery.payload:
            _log.warning(
                "'%s': a calibrator that uses other keys, or a device, publishes here; is there another calibrator of "
                "fleet '%s'?",
                delivery.topic,
                fleet,
            )
        arrived.set()

    options = SessionOptions(client_id=client_id, subscriptions=(presence_topic(fleet),), session_expiry_s=0)
    session = BrokerSession(broker, options, on_message=receive)
    session.start()
    if session.wait_connected(_CONNECT_S):
        arrived.wait(_RETAINED_S)
    session.stop(drain_s=0.0)
    return found[-1] if found else None


def check_presence(found: CalibratorPresence | None, installation: str) -> None:
    """Raise OtherInstallationError if a calibrator with another database serves the fleet."""
    if found is not None and found.installation != installation:
        raise OtherInstallationError(_refusal(found))


class Presence:
    """Keeps the presence of this calibrator at the broker, in the session of the leader. Thread-safe.

    Args:
        session: must pass messages on `presence_topic` to `on_message`.
        own: what is published, with the lowest possible term.
        keys: sign it.
        takes_over: whether to serve the fleet although a calibrator with another database was there before.
        on_superseded: receives the error if a calibrator with another database serves the fleet.
        clock: returns monotonic seconds.

    Attributes:
        settled: set once this calibrator has announced that it serves the fleet.

    """

    def __init__(
        self,
        session: BrokerSession,
        own: CalibratorPresence,
        *,
        keys: Sequence[PrivateKey],
        takes_over: bool,
        on_superseded: Callable[[EdgeExitError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settled = threading.Event()
        self._session = session
        self._own = own
        self._keys = keys
        self._takes_over = takes_over
        self._on_superseded = on_superseded
        self._clock = clock
        self._repeats = LimitedLog(_log)
        self._topic = presence_topic(own.fleet)
        self._lock = threading.Lock()
        self._published: bytes | None = None
        """What we have published on this connection and nobody has replaced."""
        self._superseded = False
        self._publish_from_s: float | None = None

    def reset(self) -> None:
        """Start again after a connect: first see what the broker has retained, then publish."""
        with self._lock:
            self._published = None
            self._publish_from_s = self._clock() + _RETAINED_S

    def on_message(self, _topic: str, payload: bytes) -> None:
        """Compare a message with ours; it may be from a calibrator with another database."""
        other = read_presence(payload, fleet=self._own.fleet, keys=self._keys)
        with self._lock:
            if payload == self._published:
                return
            was_published, self._published = self._published is not None, None
            if other is None:
                if payload:
                    text = "'%s': a message that none of our keys signed is replaced"
                    self._repeats.warning("other", text, self._topic)
                return
            if other.installation == self._own.installation:  # of the process that led before
                self._own = msgspec.structs.replace(self._own, term=max(self._own.term, other.term))
                return
            if self._takes_over and not self.settled.is_set():
                self._own = msgspec.structs.replace(self._own, term=max(self._own.term, other.term + 1))
                _log.warning("takes over fleet '%s' from %s", self._own.fleet, other.place or other.installation)
                return
            rank, own_rank = (other.term, other.installation), (self._own.term, self._own.installation)
            if rank < own_rank and (was_published or other.term < self._own.term):
                return
            self._superseded = True
        self._on_superseded(OtherInstallationError(_refusal(other)))

    def run(self, stop: threading.Event) -> None:
        """Publish whenever it is due, until `stop` is set; then remove the presence."""
        while not stop.wait(_LOOK_S):
            self.publish()
        self.clear()

    def publish(self) -> None:
        """Publish the presence if the broker does not have it."""
        with self._lock:
            is_due = self._publish_from_s is not None and self._clock() >= self._publish_from_s
            if self._published is not None or self._superseded or not is_due or not self._session.connected:
                return
            self._publish_from_s = self._clock() + _PAUSE_S
            payload = self._published = sign(
                msgspec.json.encode(self._own), payload_type=PRESENCE_TYPE, keys=self._keys
            )
        if self._session.publish(self._topic, payload, retain=True) is not None:
            self.settled.set()
            return
        with self._lock:
            self._published = None

    def clear(self) -> None:
        """Remove the presence from the broker, unless it is that of another calibrator."""
        with self._lock:
            is_ours = self._published is not None and not self._superseded
            self._superseded = True
        if is_ours:
            self._session.publish(self._topic, b"", retain=True)


def _refusal(other: CalibratorPresence) -> str:
    return (
        f"fleet '{other.fleet}': a calibrator with another database (installation {other.installation}) serves it: "
        f"{other.place}; stop that one, or start this one with --take-over, also if that one does not run any more"
    )
