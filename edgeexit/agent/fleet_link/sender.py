"""Sends the messages of the outbox at the rate of the connection, and finds those that the broker cannot take."""

import logging
from typing import Final, Protocol

from edgeexit.agent.fleet_link.send_window import SendWindow
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.outbox.rows import OutboxEntry
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import Ack, DeviceAddress, PacketTooLargeError, Publication, up_topic

_log = logging.getLogger(__name__)

_MAX_UNFINISHED_BYTES: Final = 64 * 1024
"""Bytes given to the connection and not acknowledged by the broker; a single larger message is sent alone. A state or
a report does not wait for more than this."""
_ALONE_S: Final = 120.0
"""Maximum time for which other messages wait for one that is sent alone."""


class AuditSigner(Protocol):
    """Signs the audits of a device."""

    def sign_audit(self, audit: bytes, *, topic: str) -> bytes:
        """Return the payload of `up/audit` for the JSON of an audit."""


class MessageTarget(Protocol):
    """What the sender needs of a broker session."""

    @property
    def unacked_bytes(self) -> int:
        """Bytes of the messages that the broker has not acknowledged."""

    def publish(self, topic: str, payload: bytes) -> Publication | None:
        """Send a message at QoS 1; return None if there is no connection."""


class OutboxSender:
    """Sends reports before audits, and never more than the connection has room for. Used by one thread.

    A message that is larger than the broker takes is split if it is an audit of several samples; otherwise it is
    dropped and counted. A broker of MQTT 3.1.1 does not announce its maximum: it ends the connection. A message that
    was unfinished at several such ends is sent last and alone, and split if that fails, too.

    Args:
        outbox: the messages to deliver.
        connection: the broker session.
        signer: signs the audits.
        address: the device, for the topics.
        resend_s: seconds after which a message is sent again that the calibrator has not acknowledged.

    """

    def __init__(
        self, outbox: Outbox, connection: MessageTarget, signer: AuditSigner, *, address: DeviceAddress, resend_s: float
    ) -> None:
        self._outbox = outbox
        self._connection = connection
        self._signer = signer
        self._topics = {kind: up_topic(address, kind) for kind in ("report", "audit")}
        self._windows = [SendWindow(outbox, kind, resend_s=resend_s) for kind in ("report", "audit")]
        self._limited = LimitedLog(_log)
        self._alone: Publication | None = None
        self._alone_until = 0.0

    def update(self, now: float) -> None:
        """Take over what has become of the messages that were sent."""
        for window in self._windows:
            window.update(now)
        if self._alone is not None and (self._alone.done or now >= self._alone_until):
            self._alone = None

    def send(self, now: float) -> float:
        """Send what is due; return the monotonic time at which there is something to do without any event.

        Call it only when the broker has acknowledged something on this connection.
        """
        again = True
        while again and self._alone is None:
            again = all(self._send_due(window, now) for window in self._windows) and self._split_or_send_suspect(now)
        return min(window.next_at(now) for window in self._windows)

    def acknowledge(self, ack: Ack, now: float) -> None:
        """Apply an acknowledgement of the calibrator to the outbox."""
        done = self._outbox.acknowledge(ack)
        for window in self._windows:
            if done.stored:
                window.acknowledged(done.stored, now)
            window.postpone(done.postponed, now)

    def flush_log(self) -> None:
        """Log the numbers of repeated lines."""
        self._limited.flush()

    @property
    def _unacked_bytes(self) -> int:
        """Bytes whose PUBACK is still expected: a broker that loses some would stop everything else for ever."""
        return max(0, self._connection.unacked_bytes - sum(window.given_up_bytes for window in self._windows))

    def _send_due(self, window: SendWindow, now: float) -> bool:
        """Send the due messages of a kind; return False if the connection takes no more."""
        while entries := window.due(now):
            for entry in entries:
                used = self._unacked_bytes
                if used and used + entry.size > _MAX_UNFINISHED_BYTES:
                    return False
                if not self._publish(window, entry, now):
                    return False
        return True

    def _split_or_send_suspect(self, now: float) -> bool:
        """Handle one message that may end the connection; return True if it was split.

        It is sent when nothing else is unfinished, and then nothing else is sent until the broker has it.
        """
        for window in self._windows:
            for entry in window.suspects():
                if window.is_too_large(entry) and self._outbox.split(entry.id):
                    self._limited.warning(
                        "split", "connections end when a message of %d bytes is sent; it is split", entry.size
                    )
                    return True
                if not window.is_due(entry, now):
                    continue
                if self._unacked_bytes == 0 and self._publish(window, entry, now):
                    self._alone, self._alone_until = window.publication(entry), now + _ALONE_S
                return False
        return False

    def _publish(self, window: SendWindow, entry: OutboxEntry, now: float) -> bool:
        """Send a message, or split or drop it if it is too large; return False if there is no connection."""
        topic, payload = self._topics[window.kind], self._outbox.payload(entry.id)
        if payload is None:
            return True
        try:
            if window.kind == "audit":
                payload = self._signer.sign_audit(payload, topic=topic)
            publication = self._connection.publish(topic, payload)
        except PacketTooLargeError as error:
            self._handle_oversized(entry, error.size, f"the {error.limit} bytes that the broker takes")
            return True
        if publication is None:
            return False
        window.sent(entry, publication, now)
        return True

    def _handle_oversized(self, entry: OutboxEntry, size: int, limit: str) -> None:
        if not self._outbox.split(entry.id):
            self._outbox.drop_oversized(entry.id, size=size, limit=limit)
