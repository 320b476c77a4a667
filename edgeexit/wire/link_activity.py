"""Tells a slow link from a dead one, by whether the peer's TCP still acknowledges what waits to be sent."""

import socket
import struct
from typing import Final

_TCP_INFO_BYTES: Final = 148
_UNACKED: Final = ("I", 24)
_BYTES_ACKED: Final = ("Q", 120)
_NOT_SENT: Final = ("I", 144)
"""Format and offset in `struct tcp_info` (linux/tcp.h): packets in flight, acknowledged bytes, bytes not sent."""


class LinkActivity:
    """Observes a TCP connection. Where the operating system gives no such information, no link counts as active.

    Args:
        descriptor: of the TCP socket, also below TLS.

    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._acked = 0

    def is_sending(self) -> bool:
        """Return True if bytes were acknowledged since the last call, and more are waiting.

        Without waiting bytes it is False: then the broker has received everything, and it is its turn to respond.
        """
        info = self._tcp_info()
        if len(info) < _TCP_INFO_BYTES:
            return False
        (acked,) = struct.unpack_from(*_BYTES_ACKED[:1], info, _BYTES_ACKED[1])
        waiting = any(struct.unpack_from(form, info, offset)[0] for form, offset in (_UNACKED, _NOT_SENT))
        has_moved, self._acked = acked != self._acked, acked
        return has_moved and waiting

    def _tcp_info(self) -> bytes:
        option = getattr(socket, "TCP_INFO", None)
        if option is None:
            return b""
        try:
            with socket.socket(fileno=self._descriptor) as view:
                try:
                    return view.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO_BYTES)
                finally:
                    view.detach()
        except OSError:
            return b""
