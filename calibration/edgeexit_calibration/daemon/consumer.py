"""Receives the messages of one shard, or of all shards, in a durable session at the broker."""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions

_SESSION_EXPIRY_S: Final = 24 * 3600


class Consumer:
    """A durable session; another process that connects with the same client id continues it.

    Args:
        broker: where the broker is.
        client_id: id of the session.
        topics: filter of the messages.
        receive_maximum: maximum number of messages that the broker sends before they are acknowledged.
        on_messages: receives batches of messages in the network thread; may block.
        may_connect: asked before each attempt to connect; False while another process may own the session.

    """

    def __init__(
        self,
        broker: BrokerConfig,
        *,
        client_id: str,
        topics: str,
        receive_maximum: int,
        on_messages: Callable[[list[Delivery]], None],
        may_connect: Callable[[], bool],
    ) -> None:
        self._stopped = threading.Event()
        self._session = BrokerSession(
            broker,
            SessionOptions(
                client_id=client_id,
                subscriptions=(topics,),
                session_expiry_s=_SESSION_EXPIRY_S,
                manual_ack=True,
                receive_maximum=receive_maximum,
            ),
            on_messages=on_messages,
            may_connect=lambda: not self._stopped.is_set() and may_connect(),
        )

    @property
    def connected(self) -> bool:
        """Whether messages can arrive."""
        return self._session.connected

    def start(self) -> None:
        """Start to connect in the background."""
        self._session.start()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker; those of other connections are left out."""
        self._session.acknowledge(deliveries)

    def send(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Send acknowledgements to devices, with QoS 0; return False if there is no connection."""
        return self._session.publish_unconfirmed(messages)

    def stop(self) -> threading.Thread:
        """Disconnect in the background, and return the thread that does; the broker keeps the session."""
        self._stopped.set()
        stopping = threading.Thread(target=self._session.stop, kwargs={"drain_s": 0.0}, name="calibrator-disconnect")
        stopping.start()
        return stopping
