"""Receives the messages of one shard, or of all shards, in a durable session at the broker."""

import threading
from collections.abc import Sequence

from edgeexit.wire import BrokerSession


class Consumer:
    """A durable session; another process that connects with the same client id continues it.

    Args:
        session: delivers the messages.

    """

    def __init__(self, session: BrokerSession) -> None:
        self._session = session

    @property
    def connected(self) -> bool:
        """Whether messages can arrive."""
        return self._session.connected

    def start(self) -> None:
        """Start to connect in the background."""
        self._session.start()

    def send(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Send acknowledgements to devices, with QoS 0; return False if there is no connection."""
        return self._session.publish_unconfirmed(messages)

    def stop(self) -> threading.Thread:
        """Disconnect in the background, and return the thread that does; the broker keeps the session.

        It sends what waits, also the last publications of the leader if it uses this session.
        """
        stopping = threading.Thread(target=self._session.stop, name="calibrator-disconnect")
        stopping.start()
        return stopping
