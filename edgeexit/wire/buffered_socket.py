"""A socket that takes every frame of a WebSocket as a whole, and sends what did not fit when it is writable."""

import contextlib
import socket
import ssl
from typing import Final

_FIRST_BYTES: Final = 100
_AHEAD_BYTES: Final = 256 * 1024


class BufferedSocket:
    """Stands between paho's WebSocket and the TCP or TLS socket.

    paho drops a packet of which only a part could be sent, and sends a pong into the middle of a frame. With this class
    `send` takes everything, in order; `flush` sends what waits.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting = bytearray()
        self._first = bytearray()
        self.reads_ahead = False
        """True: read more than is asked for, because paho's WebSocket asks for each field of a frame."""
        self._ahead = b""
        self._ahead_start = 0

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
        if not self.reads_ahead:
            data = self._connection.recv(size)
        else:
            if self._ahead_start >= len(self._ahead):
                self._ahead, self._ahead_start = self._connection.recv(_AHEAD_BYTES), 0
            data = self._ahead[self._ahead_start : self._ahead_start + size]
            self._ahead_start += len(data)
        if len(self._first) < _FIRST_BYTES:
            self._first += data[:_FIRST_BYTES]
        return data

    def pending(self) -> int:
        """Return the number of received bytes in this buffer, or else in the buffers of TLS."""
        ahead = len(self._ahead) - self._ahead_start
        return ahead or (self._connection.pending() if isinstance(self._connection, ssl.SSLSocket) else 0)

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
