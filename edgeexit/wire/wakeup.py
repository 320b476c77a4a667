"""Wakes an event loop from another thread: a socket pair that is readable after a call of `wake`."""

import contextlib
import socket
import threading


class Wakeup:
    """Register it for reading with a selector.

    When it is readable, call `clear` before the loop looks for what it was woken for. Create it in the thread of the
    loop.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)  # noqa: FBT003
        self._writer.setblocking(False)  # noqa: FBT003
        self._is_set = False
        self._loop_thread = threading.get_ident()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the loop; thread-safe, and cheap if it is about to wake up or calls this itself."""
        if not self._is_set and threading.get_ident() != self._loop_thread:
            self._is_set = True
            with contextlib.suppress(OSError):  # full: it wakes up; closed: it has ended
                self._writer.send(b"\0")

    def clear(self) -> None:
        """Make it unreadable until the next `wake`; only for a wakeup that is readable.

        The order matters: with the flag cleared first, a `wake` in between would send a byte that is received here, and
        all later ones would do nothing.
        """
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(64)
        self._is_set = False

    def close(self) -> None:
        """Close both sockets."""
        self._reader.close()
        self._writer.close()
