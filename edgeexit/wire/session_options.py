"""Options of a session at the broker, and the messages that it delivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class DeliveryOrigin(Protocol):
    """The connection on which messages have arrived."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A received message. With `manual_ack`, the receiver calls `ack` when it has processed the message.

    The garbage collector does not track it, because thousands wait: it refers to nothing that refers to it.
    """

    topic: str
    payload: bytes
    retain: bool = False
    """True: the broker stored the message before this client subscribed."""
    qos: int = 1
    """QoS with which the message arrived: the lower one of the publisher's and the subscription's."""
    dup: bool = False
    """True: the broker sent the message before, and may not have received the acknowledgement."""
    packet_id: int = 0
    """Identifies the message on its connection until it is acknowledged; 0 with QoS 0."""
    origin: DeliveryOrigin | None = None
    """Where to acknowledge the message; None: it needs no acknowledgement by the receiver."""

    def ack(self) -> None:
        """Acknowledge the message to the broker; thread-safe. For many messages, use `BrokerSession.acknowledge`.

        It has no effect after the end of the connection: the broker sends the message again on the next one.
        """
        if self.origin is not None:
            self.origin.acknowledge((self,))


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a client's session at the broker."""

    client_id: str
    """Id of this client, the same at every start; the broker stores the session under this id."""
    subscriptions: tuple[str, ...] = ()
    """Topic filters; the client subscribes to them with QoS 1 at every connect."""
    will: tuple[str, bytes] | None = None
    """Topic and payload that the broker publishes (retained, QoS 1) when the connection is lost."""
    will_delay_s: int = 0
    """Seconds before the broker publishes the will, if the client does not connect again and its session does not end
    meanwhile (MQTT 5; with 3.1.1 there is no delay)."""
    session_expiry_s: int = 24 * 3600
    """Seconds for which the broker stores subscriptions and queued messages while the client is offline; 0: each
    connection starts a clean session, and the broker sends the retained messages again."""
    manual_ack: bool = False
    """True: a message is acknowledged to the broker when the receiver calls `Delivery.ack`, not when it arrives."""
    receive_maximum: int | None = None
    """Maximum number of messages that the broker sends before they are acknowledged (MQTT 5); None: the broker's own
    limit. A session that takes batches also stops reading above it, for brokers that do not know it."""
    max_unacked_bytes: int | None = None
    """A session that takes batches stops reading while messages with more bytes wait for their acknowledgement; None:
    it does not. The connection is kept alive meanwhile."""
    keepalive_s: int = 30
    """Seconds without traffic after which the client sends a PINGREQ; a broker with MQTT 5 can override it. If nothing
    arrives for as long again, the connection is lost."""
