"""Notices a calibrator of the same fleet that uses another database, by a signed, retained message at the broker.

Two databases would both store every message and publish policies of their own. A calibrator that starts while another
one is present refuses to start. `--take-over` overrides that: the new one announces a higher term, and the other ends.
Messages that none of our keys signed are ignored, so that no device can end a calibrator.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
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


def next_term(found: CalibratorPresence | None, installation: str, *, take_over: bool) -> int:
    """Return the term of a calibrator that starts. Raises OtherInstallationError if another one serves the fleet."""
    if found is None:
        return 1
    if found.installation == installation:
        return found.term
    if not take_over:
        raise OtherInstallationError(_refusal(found))
    return found.term + 1


class Presence:
    """Keeps the presence of this calibrator at the broker, in the session of the leader.

    Call `publish` and `reset` in one thread; `on_message` may be called in another one.

    Args:
        session: must pass messages on `presence_topic` to `on_message`.
        own: what is published.
        keys: sign it.
        on_superseded: receives the error if a calibrator with another database serves the fleet now.
        clock: returns monotonic seconds.

    """

    def __init__(
        self,
        session: BrokerSession,
        own: CalibratorPresence,
        *,
        keys: Sequence[PrivateKey],
        on_superseded: Callable[[EdgeExitError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._own = own
        self._keys = keys
        self._on_superseded = on_superseded
        self._clock = clock
        self._repeats = LimitedLog(_log)
        self._topic = presence_topic(own.fleet)
        self._payload = sign(msgspec.json.encode(own), payload_type=PRESENCE_TYPE, keys=keys)
        self._lock = threading.Lock()
        self._is_present = False
        self._superseded = False
        self._publish_from_s = 0.0
        self._connected_s: float | None = None

    def reset(self) -> None:
        """Start again after a connect: first see what the broker has retained, then publish."""
        with self._lock:
            self._is_present = False
            self._connected_s = self._clock()
            self._publish_from_s = self._connected_s + _RETAINED_S

    def on_message(self, _topic: str, payload: bytes) -> None:
        """Compare a message with ours; it may be from a calibrator with another database."""
        if payload == self._payload:
            return
        other = read_presence(payload, fleet=self._own.fleet, keys=self._keys)
        with self._lock:
            was_present, self._is_present = self._is_present, False
        if other is None:
            if payload:
                self._repeats.warning("other", "'%s': a message that none of our keys signed is replaced", self._topic)
            return
        if other.installation == self._own.installation:
            return
        rank, own_rank = (other.term, other.installation), (self._own.term, self._own.installation)
        if rank > own_rank or (not was_present and other.term >= self._own.term):
            self._superseded = True
            self._on_superseded(OtherInstallationError(_refusal(other)))

    def publish(self, *, now: datetime) -> None:  # noqa: ARG002 - as the other publishers
        """Publish the presence if the broker does not have it."""
        with self._lock:
            is_due = not self._is_present and not self._superseded and self._clock() >= self._publish_from_s
            if not is_due or self._connected_s is None or not self._session.connected:
                return
            self._is_present = True
            self._publish_from_s = self._clock() + _PAUSE_S
        if self._session.publish(self._topic, self._payload, retain=True) is None:
            with self._lock:
                self._is_present = False

    def clear(self) -> None:
        """Remove the presence from the broker, unless it is that of another calibrator."""
        with self._lock:
            is_ours = self._is_present and not self._superseded
            self._superseded = True
        if is_ours:
            self._session.publish(self._topic, b"", retain=True)


def _refusal(other: CalibratorPresence) -> str:
    return (
        f"fleet '{other.fleet}': a calibrator with another database (installation {other.installation}) serves it: "
        f"{other.place}; stop that one, or start this one with --take-over, also if that one does not run any more"
    )
