"""Accepts connections, also while the process or the system has no file descriptor left.

asyncio's own server would try again for every connection in the backlog and log each attempt, which fills a log and
takes a processor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.agent.endpoint.response import ResponseWriter, error_response

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from edgeexit.limited_log import LimitedLog

_MAX_AT_ONCE: Final = 64
"""Connections accepted before other events of the loop are handled."""
_PAUSE_S: Final = 1.0
_ROOM_PAUSE_S: Final = 0.01
"""A connection that was closed to make room has given back its descriptor after this time."""
_MAX_DRAINED_BYTES: Final = 64 * 1024
_CAUSES: Final = {
    errno.EMFILE: "the process has reached its limit on open files; raise LimitNOFILE= in the systemd unit",
    errno.ENFILE: "the system has reached its limit on open files; raise the sysctl fs.file-max",
    errno.ENOBUFS: "the system has no memory left for sockets",
    errno.ENOMEM: "the system has no memory left for sockets",
}


class Acceptor:
    """Accepts the connections of listening sockets; only the endpoint's loop uses it.

    Without a free descriptor, an idle connection is closed for the new one. If none is idle, the new one gets a 503:
    one descriptor is held in reserve for this. If even that fails, accepting pauses for a second; clients wait.

    Args:
        loop: the endpoint's loop.
        listeners: the listening sockets.
        make_protocol: makes the protocol of a connection.
        make_room: closes a connection that does no work; returns False if there is none.
        limited: where errors are logged.

    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Iterable[socket.socket],
        *,
        make_protocol: Callable[[], asyncio.Protocol],
        make_room: Callable[[], bool],
        limited: LimitedLog,
    ) -> None:
        self._loop = loop
        self._make_protocol = make_protocol
        self._make_room = make_room
        self._limited = limited
        self._starting: set[asyncio.Task[Any]] = set()
        self._resuming: dict[socket.socket, asyncio.TimerHandle] = {}
        self._reserve = _open_reserve()
        self._listeners = tuple(listeners)
        for listener in self._listeners:
            listener.setblocking(False)  # noqa: FBT003 - the method's only parameter
            loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept no more connections, and close the listening sockets."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        for handle in self._resuming.values():
            handle.cancel()
        self._resuming.clear()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _accept(self, listener: socket.socket) -> None:
        """Accept the connections that wait."""
        for _ in range(_MAX_AT_ONCE):
            try:
                accepted, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._limited.error(
                    ("accept", error.errno),
                    "the endpoint cannot accept a connection (%s): %s",
                    error.strerror,
                    _CAUSES.get(error.errno or 0, "it tries again"),
                )
                if error.errno not in _CAUSES or self._make_room():  # others are errors of the new connection
                    self._pause(listener, _ROOM_PAUSE_S)
                    return
                if not self._refuse(listener):
                    self._pause(listener, _PAUSE_S)
                    return
                continue
            accepted.setblocking(False)  # noqa: FBT003 - the method's only parameter
            task = self._loop.create_task(self._start(accepted))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, accepted)
        except Exception as error:  # noqa: BLE001 - one connection must not end the others
            accepted.close()
            self._limited.error("start", "a connection could not be started: %s", error, exc_info=error)

    def _pause(self, listener: socket.socket, duration_s: float) -> None:
        self._loop.remove_reader(listener)
        self._resuming[listener] = self._loop.call_later(duration_s, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._resuming[listener]
        if self._reserve is None:
            self._reserve = _open_reserve()
        self._loop.add_reader(listener, self._accept, listener)

    def _refuse(self, listener: socket.socket) -> bool:
        """Refuse one connection with the descriptor in reserve. Return False if that is not possible either."""
        if self._reserve is None:
            return False
        os.close(self._reserve)
        try:
            accepted, _address = listener.accept()
        except OSError:
            return False
        else:
            _send_refusal(accepted)
            return True
        finally:
            self._reserve = _open_reserve()


def _send_refusal(accepted: socket.socket) -> None:
    """Send a 503, and close the connection."""
    refusal = RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open; try again later")
    with accepted, contextlib.suppress(OSError):
        accepted.setblocking(False)  # noqa: FBT003 - the method's only parameter
        accepted.send(ResponseWriter().render(error_response(refusal), connection=b"close"))
        accepted.shutdown(socket.SHUT_WR)
        accepted.recv(_MAX_DRAINED_BYTES)  # closing with unread data would discard the response


def _open_reserve() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
