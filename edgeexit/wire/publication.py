"""What became of a published message: written, acknowledged, refused, or ended with its connection."""

import threading

from edgeexit.errors import MessageError


class PacketTooLargeError(MessageError):
    """A payload is larger than the broker accepts.

    Attributes:
        size: bytes of the payload.
        limit: maximum bytes of a payload on this topic.

    """

    def __init__(self, topic: str, *, size: int, limit: int) -> None:
        super().__init__(
            f"the message of {size} bytes on '{topic}' is larger than the {limit} bytes that the broker accepts; raise "
            "the broker's maximum packet size, or send smaller messages"
        )
        self.size = size
        self.limit = limit


class Publication:
    """One message that was given to a connection. All attributes can be read from every thread.

    Attributes:
        topic: topic of the message.
        size: bytes of its packet.
        written: True when the packet has left the client's queue. It may still be in the queue of the operating system.
        acked: True when the broker has taken the message (PUBACK without an error).
        refused: the broker's reason, if its PUBACK refuses the message.
        ended: True when the connection that carried the message has ended before its PUBACK.

    """

    __slots__ = ("_done", "acked", "ended", "refused", "size", "topic", "written")

    def __init__(self, topic: str, size: int) -> None:
        self.topic = topic
        self.size = size
        self.written = False
        self.acked = False
        self.refused: str | None = None
        self.ended = False
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        """True when nothing more will happen: the message is acknowledged or refused, or its connection has ended."""
        return self._done.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the publication is `done`; return False after the timeout. Not for callbacks of the session."""
        return self._done.wait(timeout_s)

    def acknowledge(self, refused: str | None = None) -> None:
        """Record the broker's PUBACK."""
        self.written = True
        self.refused = refused
        self.acked = refused is None
        self._done.set()

    def end(self) -> None:
        """Record that the connection has ended. It changes nothing if the publication is done."""
        if not self.done:
            self.ended = True
            self._done.set()
