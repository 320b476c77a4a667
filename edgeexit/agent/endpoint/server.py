"""The endpoint: an HTTP server in its own thread, with a maximum number of connections and a clean stop."""

import asyncio
import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets

from edgeexit.agent.agent import Agent
from edgeexit.agent.config import EndpointConfig
from edgeexit.agent.endpoint.calls import make_application
from edgeexit.agent.endpoint.documents import model_metadata, server_metadata
from edgeexit.agent.endpoint.transport import InferenceService
from edgeexit.errors import ConfigError

_log = logging.getLogger(__name__)

_MAX_HEADER_BYTES: Final = 16 * 1024
_UNLIMITED_BODY: Final = 2**62
"""Tornado's own limit is disabled: the handlers refuse bodies that are too large with a readable error."""
_STOP_S: Final = 10.0
_STOP_POLL_S: Final = 0.02

_ADVICE: Final = {
    errno.EADDRINUSE: "stop the process that listens there, or set another host or port",
    errno.EADDRNOTAVAIL: "set host to an address of this device",
    errno.EACCES: "set a port of at least 1024",
}

_FULL_BODY: Final = b'{"error":"too many connections are open; try again later"}'
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)


class Endpoint:
    """Serves an open agent over HTTP; a context manager.

    Args:
        agent: an open agent; it must stay open longer than the endpoint.
        config: where to listen, and the limits on clients.
        sockets: result of `listen`; default: opened when the endpoint is entered.

    Raises ConfigError, when it is entered, if the address is not available.

    """

    def __init__(self, agent: Agent, config: EndpointConfig, sockets: Sequence[socket.socket] = ()) -> None:
        self._config = config
        self._agent = agent
        self._service = InferenceService(
            agent, config, server_metadata(), model_metadata(agent.manifest, agent.bundle_digest)
        )
        self._thread = threading.Thread(target=self._run, name="agent-endpoint", daemon=True)
        self._sockets = list(sockets)
        self._serving: Future[asyncio.AbstractEventLoop] = Future()
        self._server: _BoundedServer
        self._stopped: asyncio.Event

    def __enter__(self) -> "Endpoint":
        """Listen and start to serve."""
        self._sockets = self._sockets or listen(self._config)
        self._thread.start()
        self._serving.result()
        _log.info("the endpoint serves model '%s' on http://%s", self._service.model.name, self.address)
        if not _is_local(self._config.host):
            _log.warning(
                "the endpoint listens on %s without authentication: every host that reaches it can send requests",
                self._config.host,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse new requests, finish the requests in flight for up to 10 s, and close."""
        loop = self._serving.result()
        self._service.ready = False
        loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(2 * _STOP_S)  # a loop that hangs is abandoned

    @property
    def address(self) -> str:
        """Address of the endpoint for a URL: `HOST:PORT`, or `[HOST]:PORT` for IPv6."""
        host, port = self._sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def port(self) -> int:
        """The port that the endpoint listens on; if the configured port is 0, the free port that was chosen."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return self._server.open_connections

    def probe(self) -> Future[None]:
        """Run one golden sample, started in the endpoint's loop; the future completes when the inference does."""
        return asyncio.run_coroutine_threadsafe(self._probe(), self._serving.result())

    def set_ready(self, *, ready: bool) -> None:
        """Set whether the readiness calls respond with 200 or 503."""
        self._service.ready = ready

    async def _probe(self) -> None:
        await asyncio.wrap_future(self._agent.probe())

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._serving.done():
                raise
            self._serving.set_exception(error)

    async def _serve(self) -> None:
        server = self._server = _BoundedServer(
            make_application(self._service),
            max_header_size=_MAX_HEADER_BYTES,
            max_body_size=_UNLIMITED_BODY,
            idle_connection_timeout=self._config.idle_timeout_s,
            body_timeout=self._config.transfer_timeout_s,
        )
        server.max_connections = self._config.max_connections
        server.add_sockets(self._sockets)
        self._stopped = asyncio.Event()
        self._serving.set_result(asyncio.get_running_loop())
        await self._stopped.wait()
        server.stop()
        self._service.admission.close()  # open connections could send more requests
        deadline = asyncio.get_running_loop().time() + _STOP_S
        while self._service.admission.requests and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - runs once
            await asyncio.sleep(_STOP_POLL_S)
        await server.close_all_connections()


class _BoundedServer(HTTPServer):
    """Responds with 503 to every connection that exceeds the maximum."""

    max_connections: int

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        if self.open_connections < self.max_connections:
            super().handle_stream(stream, address)
            return
        stream.write(_FULL).add_done_callback(lambda _: stream.close())


def listen(config: EndpointConfig) -> list[socket.socket]:
    """Open the sockets of an endpoint; clients that connect wait until it serves.

    Raises ConfigError if the host does not resolve, or the address is not available.
    """
    try:
        return bind_sockets(config.port, config.host, backlog=config.max_connections)
    except socket.gaierror as error:
        raise ConfigError(
            f"endpoint: host '{config.host}' does not resolve; set host to an address of this device under [endpoint]"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"endpoint: port {config.port} on {config.host} is not available ({error.strerror}); "
            f"{_ADVICE.get(error.errno or 0, 'set another host or port')} under [endpoint]"
        ) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
