"""Opens the TCP connection to the broker, directly or through an HTTP proxy, in bounded time."""

import base64
import contextlib
import socket
import threading
from types import TracebackType
from typing import Final

from edgeexit.log_text import one_line
from edgeexit.wire.broker_config import BrokerConfig, BrokerEndpoint, HttpProxy, first_line

_ADDRESS_TIMEOUT_S: Final = 10.0
"""Seconds to wait for one address of the host; a host can have several."""
_UNSENT_BYTES: Final = 32 * 1024
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    # The operating system notices a dead connection within about two minutes, even if the broker turns PINGREQ off.
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    # The operating system takes at most this much that it has not sent yet. Otherwise it takes megabytes, and on a slow
    # link a PINGREQ or an acknowledgement would wait behind them for minutes.
    (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
)


class ProxyError(OSError):
    """The HTTP proxy is not reachable, or does not connect to the broker."""


def open_connection(config: BrokerConfig, endpoint: BrokerEndpoint, guard: "ConnectGuard") -> socket.socket:
    """Return a connected socket, with a timeout. Raises OSError, ProxyError, or ConfigError for an unreadable file."""
    proxy = config.http_proxy()
    if proxy is None:
        connection = socket.create_connection((endpoint.host, endpoint.port), timeout=_ADDRESS_TIMEOUT_S)
        guard.watch(connection)
    else:
        connection = _open_through(proxy, endpoint, _authorization(config, proxy), guard)
    for level, name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):  # the connection also works without
                connection.setsockopt(level, option, value)
    return connection


def _open_through(
    proxy: HttpProxy, endpoint: BrokerEndpoint, headers: dict[str, str], guard: "ConnectGuard"
) -> socket.socket:
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 - few devices need it

    place = f"the proxy at {proxy.host}:{proxy.port}"
    try:
        connection = socket.create_connection((proxy.host, proxy.port), timeout=_ADDRESS_TIMEOUT_S)
    except OSError as error:
        raise ProxyError(f"cannot connect to {place}: {error.strerror or error}") from error
    guard.watch(connection)
    tunnel = HTTPConnection(proxy.host, proxy.port)
    tunnel.set_tunnel(endpoint.host, endpoint.port, headers)
    tunnel._create_connection = lambda *_: connection  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        tunnel.connect()
    except (OSError, HTTPException) as error:
        connection.close()
        text = one_line(str(error)).removeprefix("Tunnel connection failed: ")
        if isinstance(error, HTTPException):
            text = "it does not speak HTTP"
        raise ProxyError(f"{place} does not connect to {endpoint.host}:{endpoint.port}: {text}") from error
    return connection


def _authorization(config: BrokerConfig, proxy: HttpProxy) -> dict[str, str]:
    if proxy.username is None:
        return {}
    password = ""
    if config.proxy_password_file is not None:
        password = first_line("proxy_password_file", config.proxy_password_file)
    credentials = base64.b64encode(f"{proxy.username}:{password}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {credentials}"}


class ConnectGuard:
    """Ends an attempt to connect after `limit_s` seconds, or when another thread calls `abort`.

    Every step of a connect (TCP, proxy, TLS, WebSocket) has a timeout, but a server that sends a byte now and then can
    prolong each for ever. Use it as a context manager around the attempt.
    """

    def __init__(self, limit_s: float) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False
        self.expired = False
        """True: the attempt took longer than the limit."""
        self._timer = threading.Timer(limit_s, self._expire)
        self._timer.daemon = True

    def watch(self, connection: socket.socket) -> None:
        """Set the connection to end. The socket is duplicated, because TLS takes it over."""
        with self._lock:
            self._socket = connection.dup()
        if self._aborted:
            self.abort()

    def abort(self) -> None:
        """End the attempt: blocking calls on the connection return with an error."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _expire(self) -> None:
        self.expired = True
        self.abort()

    def __enter__(self) -> "ConnectGuard":
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
