"""The messages that arrive on one connection, and their delivery to the session's callback."""

from collections.abc import Sequence
from typing import Final

from edgeexit.wire.acknowledgements import Acknowledgements
from edgeexit.wire.callbacks import SessionCallbacks
from edgeexit.wire.packet_codec import Publish
from edgeexit.wire.session_options import Delivery, SessionOptions

_BACKLOG: Final = 500


class Incoming:
    """Delivers messages to the session's callback, in the network thread.

    Args:
        callbacks: of the session.
        options: of the session.
        acknowledgements: of the connection.

    """

    def __init__(
        self, callbacks: SessionCallbacks, options: SessionOptions, acknowledgements: Acknowledgements
    ) -> None:
        self._callbacks = callbacks
        self._options = options
        self._acknowledgements = acknowledgements
        # paho acknowledges the other messages by itself.
        self._acknowledges = options.manual_ack or callbacks.takes_batches
        self._batch: list[Delivery] = []

    def is_full(self) -> bool:
        """Return True if a session that takes batches has delivered more than may be unacknowledged."""
        messages, size = self._options.receive_maximum, self._options.max_unacked_bytes
        return self._callbacks.takes_batches and (
            (messages is not None and len(self._acknowledgements) > messages)
            or (size is not None and self._acknowledgements.unacked_bytes > size)
        )

    def has_backlog(self) -> bool:
        """Return True if so many messages are not acknowledged that those to come can wait a moment."""
        return len(self._acknowledgements) > _BACKLOG

    def receive(self, messages: Sequence[Publish]) -> None:
        """Take messages; they are delivered now, or by `deliver` if the session takes batches."""
        deliveries: list[Delivery] = []
        ignored: list[int] = []
        for topic, payload, packet_id, qos, retain, dup, is_cut in messages:
            origin = self._acknowledgements if qos and self._acknowledges else None
            try:
                name = topic.decode()
            except UnicodeDecodeError:
                self._callbacks.repeats.warning("topic", "a message was ignored: its topic is not UTF-8")
                if origin is not None:
                    ignored.append(packet_id)
                continue
            if is_cut:
                text = "'%s': the content of a message was skipped: it is too large"
                self._callbacks.repeats.warning(("oversized", name), text, name)
            deliveries.append(
                Delivery(
                    topic=name, payload=payload, retain=retain, qos=qos, dup=dup, packet_id=packet_id, origin=origin
                )
            )
        self._acknowledgements.expect(deliveries)
        self._acknowledgements.send(ignored)
        if self._callbacks.takes_batches:
            self._batch += deliveries
        else:
            for delivery in deliveries:
                self._callbacks.message(delivery)

    def deliver(self) -> None:
        """Deliver the batch of messages that have arrived since the last call."""
        if self._batch:
            batch, self._batch = self._batch, []
            self._callbacks.messages(batch)
            if not self._options.manual_ack:
                self._acknowledgements.acknowledge(batch)
