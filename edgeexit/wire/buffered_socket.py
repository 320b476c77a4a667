"""A socket that takes every frame of a WebSocket as a whole, and sends what did not fit when it is writable."""

import contextlib
import socket
import ssl
from typing import Final

_FIRST_BYTES: Final = 100


class BufferedSocket:
    """Stands between paho's WebSocket and the TCP or TLS socket.

    paho drops a packet of which only a part could be sent, and sends a pong into the middle of a frame. With this class
    `send` takes everything, in order; `flush` sends what waits.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting = bytearray()
        self._first = bytearray()

    @property
    def first_line(self) -> str:
        """The start of what arrived, up to the end of its first line: the status of an HTTP response."""
        return self._first.split(b"\n")[0].decode("ascii", "replace").strip()

    @property
    def is_blocked(self) -> bool:
        """True if bytes wait until the socket is writable."""
        return bool(self._waiting)

    def send(self, data: bytes | bytearray) -> int:
        """Send or keep all bytes; return their number. Raises OSError if the connection is lost."""
        self._waiting += data
        self.flush()
        return len(data)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises OSError if the connection is lost."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while self._waiting:
                del self._waiting[: self._connection.send(self._waiting)]

    def recv(self, size: int) -> bytes:
        """Receive at most `size` bytes."""
        data = self._connection.recv(size)
        if len(self._first) < _FIRST_BYTES:
            self._first += data[:_FIRST_BYTES]
        return data

    def pending(self) -> int:
        """Return the number of received bytes in the buffers of TLS."""
        return self._connection.pending() if isinstance(self._connection, ssl.SSLSocket) else 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._connection.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of a socket
        """Set the mode of the socket."""
        self._connection.setblocking(flag)

    def settimeout(self, timeout_s: float | None) -> None:
        """Set the timeout of the socket."""
        self._connection.settimeout(timeout_s)

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()
