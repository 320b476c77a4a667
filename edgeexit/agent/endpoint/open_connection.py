"""What the bookkeeping of connections knows of one: its state, its times, and how to end it."""

from typing import Final, Protocol

# States, in the order of a request.
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
BUSY: Final = 3
SENDING: Final = 4
CLOSING: Final = 5


class OpenConnection(Protocol):
    """A connection that has not been closed.

    Attributes:
        state: IDLE, HEAD, BODY, BUSY, SENDING or CLOSING.
        since: monotonic seconds at which the connection entered this state.
        deadline: monotonic seconds at which `time_out` is called.
        peer: address of the client's host; empty for a Unix domain socket.

    """

    state: int
    since: float
    deadline: float
    peer: str

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the response that the client has not read."""

    def time_out(self) -> None:
        """Close the connection: its deadline has passed."""

    def evict(self) -> None:
        """Close the connection at once, because a new one needs its place."""

    def close(self) -> None:
        """Close the connection after what has been written is sent."""

    def abort(self) -> None:
        """Close the connection, and drop what has not been sent."""
