"""The endpoint: an HTTP server in its own thread, with a clean stop."""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Final

from edgeexit.agent.agent import Agent
from edgeexit.agent.config import EndpointConfig
from edgeexit.agent.endpoint.accepting import Acceptor
from edgeexit.agent.endpoint.admission import Admission
from edgeexit.agent.endpoint.calls import CallRouter
from edgeexit.agent.endpoint.connection import ClientConnection, ConnectionContext
from edgeexit.agent.endpoint.connections import Connections
from edgeexit.agent.endpoint.descriptors import connection_limit
from edgeexit.agent.endpoint.dispatch import Dispatcher, InlineRule
from edgeexit.agent.endpoint.hosts import HostRule
from edgeexit.agent.endpoint.infer_call import InferCall
from edgeexit.agent.endpoint.listening import Listeners, address_of, is_loopback, listen
from edgeexit.agent.endpoint.service import InferenceService
from edgeexit.limited_log import LimitedLog

_log = logging.getLogger(__name__)

_HELD_BODIES: Final = 4
"""All requests in flight together may hold this many times `max_body_bytes`, and so may all unread responses."""
_STOP_S: Final = 10.0
_CLOSE_S: Final = 1.0
_STOP_POLL_S: Final = 0.02
_FLUSH_LOG_S: Final = 60.0


class Endpoint:
    """Serves an open agent over HTTP; a context manager.

    Args:
        agent: an open agent; it must stay open longer than the endpoint.
        config: where to listen, and the limits on clients.
        listeners: result of `listen`; default: opened when the endpoint is entered.

    Raises ConfigError, when it is entered, if the address is not available.

    """

    def __init__(self, agent: Agent, config: EndpointConfig, listeners: Listeners | None = None) -> None:
        self._config = config
        self._agent = agent
        self._service = InferenceService(agent, config)
        max_bytes = _HELD_BODIES * config.max_body_bytes
        self._admission = Admission(max_requests=config.max_requests, max_bytes=max_bytes)
        self._max_unsent_bytes = max_bytes
        self._thread = threading.Thread(target=self._run, name="agent-endpoint", daemon=True)
        self._listeners = listeners
        self._serving: Future[asyncio.AbstractEventLoop] = Future()
        self._connections: Connections
        self._stopped: asyncio.Event

    def __enter__(self) -> "Endpoint":
        """Listen and start to serve."""
        self._listeners = self._listeners or listen(self._config)
        config = self._config
        self._connections = Connections(
            connection_limit(config.max_connections),
            max_unsent_bytes=self._max_unsent_bytes,
            shortest_timeout_s=min(config.idle_timeout_s, config.header_timeout_s, config.transfer_timeout_s),
        )
        self._thread.start()
        self._serving.result()
        _log.info(
            "the endpoint serves model '%s' on %s", self._service.model.name, " and ".join(self._listeners.addresses)
        )
        if self._config.tcp and not is_loopback(self._config.host):
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
        self._open_listeners.close()

    @property
    def address(self) -> str:
        """TCP address of the endpoint for a URL: `HOST:PORT`, or `[HOST]:PORT` for IPv6."""
        return address_of(self._open_listeners.tcp[0])

    @property
    def port(self) -> int:
        """The port that the endpoint listens on; if the configured port is 0, the free port that was chosen."""
        port: int = self._open_listeners.tcp[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    def probe(self) -> Future[None]:
        """Run one golden sample, started in the endpoint's loop; the future completes when the inference does."""
        return asyncio.run_coroutine_threadsafe(self._probe(), self._serving.result())

    def set_ready(self, *, ready: bool) -> None:
        """Set whether the readiness calls respond with 200 or 503."""
        self._service.ready = ready

    @property
    def _open_listeners(self) -> Listeners:
        if self._listeners is None:
            raise RuntimeError("the endpoint is not open")
        return self._listeners

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
        loop = asyncio.get_running_loop()
        golden_ms, golden_elements = self._agent.measure_golden_sample()
        settings = self._agent.config
        rule = InlineRule(
            limit_ms=0.0 if settings.max_delay_ms else self._config.inline_ms,  # only the scheduler delays samples
            golden_ms=golden_ms,
            golden_elements=golden_elements,
        )
        dispatcher = Dispatcher(
            self._agent, loop, rule, max_waiting=settings.max_waiting, statistics=self._service.statistics
        )
        infer = InferCall(self._service, dispatcher, loop)
        limited = self._service.limited
        loop.set_exception_handler(
            lambda _, context: limited.error(
                (context["message"], repr(context.get("exception"))),
                "the endpoint: %s: %s",
                context["message"],
                repr(context.get("exception")),
                exc_info=context.get("exception"),
            )
        )
        router = CallRouter(self._service, infer, HostRule((self._config.host, *self._config.hosts)))
        context = ConnectionContext(self._config, router, self._admission, self._connections, limited)
        listeners = self._open_listeners
        acceptor = Acceptor(
            loop,
            listeners.sockets,
            make_protocol=lambda: ClientConnection(context),
            make_room=self._connections.make_room,
            limited=limited,
        )
        self._stopped = asyncio.Event()
        watching = asyncio.gather(self._connections.watch(), _flush_periodically(limited))
        self._serving.set_result(loop)
        await self._stopped.wait()
        acceptor.close()
        if listeners.local is not None:
            listeners.local.remove()
        self._admission.close()  # open connections could send more requests
        deadline = loop.time() + _STOP_S
        while self._admission.requests and loop.time() < deadline:  # noqa: ASYNC110 - runs once
            await asyncio.sleep(_STOP_POLL_S)
        deadline = loop.time() + _CLOSE_S
        self._connections.close_all()
        while self._connections and loop.time() < deadline:  # noqa: ASYNC110 - clients may read their last response
            await asyncio.sleep(_STOP_POLL_S)
        self._connections.abort_all()
        await asyncio.sleep(_STOP_POLL_S)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        infer.close()
        limited.close()


async def _flush_periodically(limited: LimitedLog) -> None:
    while True:
        await asyncio.sleep(_FLUSH_LOG_S)
        limited.flush()
