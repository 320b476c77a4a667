"""One connection of a client: receives requests one at a time, within limits of size and time, and sends responses.

The parser is llhttp (package httptools), in its strict mode. On every error the client gets `{"error": "..."}` on one
line, without a traceback. After an error in the protocol the connection is closed, because the start of the next
request is not known.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from edgeexit.agent.endpoint.head import RequestHead
from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.agent.endpoint.response import CONTINUE, Response, ResponseWriter, error_response
from edgeexit.errors import OverloadedError

if TYPE_CHECKING:
    from edgeexit.agent.config import EndpointConfig
    from edgeexit.agent.endpoint.admission import Admission
    from edgeexit.agent.endpoint.connections import Connections

_log = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_TRAILER_BYTES: Final = 4 * 1024
_MAX_DRAINED_BODIES: Final = 4
"""The body of a refused request is read and dropped if it is at most this many times `max_body_bytes`."""
_MAX_CHUNK_OVERHEAD: Final = 4
_SMALL_BODY_BYTES: Final = 64 * 1024
_LINGER_S: Final = 2.0
"""After an error, what the client still sends is dropped for this long, so that it can read the response."""

# States, in the order of a request.
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
BUSY: Final = 3
SENDING: Final = 4
CLOSING: Final = 5


class Call(Protocol):
    """The call that a request's head names."""

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of the body; 0: it is dropped."""

    def start(self, connection: Connection, head: RequestHead, body: bytes | bytearray) -> None:
        """Respond to a complete request by `Connection.respond`, now or later. Raises RefusalError."""

    def cancel(self, connection: Connection) -> None:
        """Cancel a request whose client has disconnected."""


class Router(Protocol):
    """Finds the call of a request."""

    def find(self, head: RequestHead, *, is_local_socket: bool) -> Call:
        """Return the call. Raises RefusalError if the request is refused whatever its body is."""


class ConnectionContext:
    """What all connections share."""

    def __init__(self, config: EndpointConfig, router: Router, admission: Admission, connections: Connections) -> None:
        self.config = config
        self.router = router
        self.admission = admission
        self.connections = connections
        self.writer = ResponseWriter()


class _EarlyRequestError(Exception):
    """A request arrives before the response to the previous one."""


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        state: IDLE, HEAD, BODY, BUSY, SENDING or CLOSING.
        since: monotonic seconds at which the connection entered this phase.
        deadline: monotonic seconds at which `time_out` is called.
        peer: address of the client's host; empty for a Unix domain socket.

    """

    def __init__(self, context: ConnectionContext) -> None:
        self._context = context
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self.state = IDLE
        self.since = self.deadline = 0.0
        self.peer = ""
        self._is_local_socket = False
        self._head = RequestHead()
        self._call: Call | None = None
        self._refusal: RefusalError | None = None
        self._body: bytes | bytearray = b""
        self._received = 0
        """Bytes of the body, including dropped ones."""
        self._raw = 0
        """Bytes of the body, with its framing."""
        self._is_complete = False
        self._keeps_alive = True
        self._has_early_data = False
        self._is_running = False

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection; refuse it if too many are open."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        self._is_local_socket = not isinstance(peer, tuple)
        self.peer = "" if self._is_local_socket else str(peer[0])
        self._enter(IDLE, self._context.config.idle_timeout_s)
        if not self._context.connections.add(self):
            self._fail(RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open; try again later"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        """Release what the connection holds, and cancel its request."""
        self._context.connections.remove(self)
        self._context.admission.release(self)
        if self._is_running and self._call is not None:
            self._call.cancel(self)
        self.state, self.deadline, self._body = CLOSING, math.inf, b""

    def eof_received(self) -> None:
        """Close the connection: a client that sends no more is gone."""

    def resume_writing(self) -> None:
        """Continue after the client has read its response."""
        if self.state == SENDING:
            self._finish_response()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and start the request when it is complete."""
        if self.state == CLOSING:
            return
        if self.state >= BUSY:
            self._receive_early(data)
            return
        rest = data
        if self.state == IDLE:
            if not data.lstrip(b"\r\n"):  # some clients send a line break after a body
                return
            self._enter(HEAD, self._context.config.header_timeout_s)
            self._raw = 0
        if self.state == HEAD:
            rest = self._feed_head(data)
        if rest and self.state == BODY and not self._is_complete:
            self._raw += len(rest)
            self._feed(rest)
            rest = b""
            if self._raw - self._received > _SMALL_BODY_BYTES + _MAX_CHUNK_OVERHEAD * self._received:
                self._fail(RefusalError(HTTPStatus.BAD_REQUEST, "the chunks of the body are too small"))
        if self._is_complete and self.state == BODY:
            self.state, self.deadline = BUSY, math.inf
            if rest:
                self._receive_early(rest)
            self._start()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Start a request."""
        if self.state != HEAD or self._is_complete:
            raise _EarlyRequestError
        self._head, self._call, self._refusal = RequestHead(), None, None
        self._body, self._received = b"", 0

    def on_url(self, url: bytes) -> None:
        """Receive the target, or a part of it."""
        self._head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header, or a trailer, which is ignored."""
        if self.state == HEAD:
            self._head.add(name, value)
            return
        self._head.size += len(name) + len(value)
        if self._head.size > _MAX_HEAD_BYTES + _MAX_TRAILER_BYTES:
            raise RefusalError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the trailers of the body are too large")

    def on_headers_complete(self) -> None:
        """Check the head, before the body arrives."""
        head, parser = self._head, self._parser
        self._enter(BODY, self._context.config.transfer_timeout_s)
        head.complete(parser.get_method(), parser.get_http_version(), upgrade=parser.should_upgrade())
        self._keeps_alive = parser.should_keep_alive()
        try:
            self._call = self._context.router.find(head, is_local_socket=self._is_local_socket)
            if 0 < self._call.max_body_bytes < head.declared_size:
                raise _too_large(self._call.max_body_bytes)
        except RefusalError as refusal:
            # A client that is still sending may miss a response, so a body of reasonable size is received first.
            if refusal.close or head.waits_for_continue or head.declared_size > self._max_drained:
                raise
            self._refusal = refusal
        if head.waits_for_continue:
            self._transport.write(CONTINUE)

    def on_body(self, chunk: bytes) -> None:
        """Receive a part of the body."""
        size = len(chunk)
        self._received += size
        if self._refusal is None and self._call is not None and (limit := self._call.max_body_bytes):
            try:
                if self._received > limit:  # it had no Content-Length
                    raise _too_large(limit)
                self._context.admission.receive(self, size)
            except OverloadedError as error:
                self._drop_body(RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))
            except RefusalError as refusal:
                self._drop_body(refusal)
            else:
                if not self._body:
                    self._body = chunk
                else:
                    if isinstance(self._body, bytes):
                        self._body = bytearray(self._body)
                    self._body += chunk
        elif self._received > self._max_drained:
            raise self._refusal or _too_large(self._context.config.max_body_bytes)

    def on_message_complete(self) -> None:
        """Mark the request as complete; it starts when the parser has returned."""
        self._is_complete = True

    # Called by calls, and by the bookkeeping of connections.

    def respond(self, response: Response) -> None:
        """Send the response; without effect if the client has disconnected."""
        self._is_running = False
        if self.state != BUSY or self._transport.is_closing():
            return
        self._body = b""
        closes = not self._keeps_alive or self._has_early_data
        connection = b"close" if not self._keeps_alive else b"keep-alive" if self._head.version == "1.0" else b""
        self._transport.write(
            self._context.writer.render(response, connection=connection, with_body=self._head.method != "HEAD")
        )
        self._keeps_alive = not closes
        if self._transport.get_write_buffer_size():
            self._enter(SENDING, self._context.config.transfer_timeout_s)
        else:
            self._finish_response()

    def abandon(self) -> None:
        """Refuse a request whose body takes too long to arrive, because others need the memory."""
        self._fail(
            RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the body arrived too slowly while other requests needed the memory; try again later",
            )
        )

    def time_out(self) -> None:
        """Close the connection: its deadline has passed."""
        if self.state in {HEAD, BODY}:
            what = "headers" if self.state == HEAD else "body"
            self._fail(RefusalError(HTTPStatus.REQUEST_TIMEOUT, f"the {what} of the request did not arrive in time"))
        elif self.state == IDLE:
            self.close()
        else:
            self._transport.abort()

    def evict(self) -> None:
        """Close the connection at once, because a new one needs its place."""
        if self.state in {HEAD, BODY}:
            self._fail(
                RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open; send the request faster")
            )
        if self.state != IDLE or self._transport.get_write_buffer_size():
            self._transport.abort()
        self.close()

    def close(self) -> None:
        """Close the connection after what has been written is sent."""
        self._enter(CLOSING, _LINGER_S)
        self._transport.close()

    # Steps.

    @property
    def _max_drained(self) -> int:
        return _MAX_DRAINED_BODIES * self._context.config.max_body_bytes

    def _enter(self, state: int, timeout_s: float) -> None:
        self.state, self.since = state, time.monotonic()
        self.deadline = self.since + timeout_s

    def _feed_head(self, data: bytes) -> bytes:
        """Parse at most as many bytes as a head may have; return the rest."""
        free = _MAX_HEAD_BYTES - self._raw
        first, rest = (data, b"") if len(data) <= free else (data[:free], data[free:])
        self._raw += len(first)
        self._feed(first)
        if self.state != HEAD:
            self._raw = 0
        elif self._raw >= _MAX_HEAD_BYTES:
            self._fail(
                RefusalError(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"the head of a request may have at most {_MAX_HEAD_BYTES} bytes",
                )
            )
        return rest

    def _feed(self, data: bytes) -> None:
        """Pass data to the parser, and refuse the request if it is not valid."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, _EarlyRequestError):
                self._has_early_data = True
            elif isinstance(cause, RefusalError):
                self._fail(cause)
            else:
                _log.error("a request could not be parsed", exc_info=cause)
                self._fail(RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log of the agent"))
        except httptools.HttpParserInvalidMethodError:
            self._fail(RefusalError(HTTPStatus.NOT_IMPLEMENTED, "the method of the request is unknown"))
        except httptools.HttpParserUpgrade:
            self._fail(RefusalError(HTTPStatus.NOT_IMPLEMENTED, "upgrades to other protocols are not supported"))
        except httptools.HttpParserError as error:
            if self._is_complete:  # the request is valid, and what follows it is not
                self._has_early_data = True
                return
            self._fail(RefusalError(HTTPStatus.BAD_REQUEST, f"the request is not valid HTTP: {error}"))

    def _receive_early(self, data: bytes) -> None:
        """Note that the client sends a request before the response to the previous one."""
        if data.lstrip(b"\r\n"):
            self._has_early_data = True
            self._transport.pause_reading()

    def _start(self) -> None:
        """Start the call of a complete request."""
        try:
            if self._refusal is not None or self._call is None:
                raise self._refusal or RefusalError(HTTPStatus.NOT_FOUND, "there is no such call")
            if self._call.max_body_bytes:  # the other calls run at once
                self._context.admission.start(self)
            body, self._body = self._body, b""
            self._is_running = True
            self._call.start(self, self._head, body)
        except OverloadedError as error:
            self.respond(error_response(RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))))
        except RefusalError as refusal:
            self.respond(error_response(refusal))

    def _drop_body(self, refusal: RefusalError) -> None:
        self._refusal, self._body = refusal, b""
        self._context.admission.release(self)

    def _finish_response(self) -> None:
        """Wait for the next request, or close."""
        self._context.admission.release(self)
        self._is_complete = False
        if self._has_early_data:
            self._transport.resume_reading()
            self._fail(
                RefusalError(
                    HTTPStatus.BAD_REQUEST,
                    "requests cannot be pipelined; send the next one after the response to the previous one",
                )
            )
        elif self._keeps_alive:
            self._enter(IDLE, self._context.config.idle_timeout_s)
        else:
            self._close_gently()

    def _fail(self, refusal: RefusalError) -> None:
        """Send an error, and close the connection when the client has had time to read it."""
        if self.state == CLOSING or self._transport.is_closing():
            return
        self._context.admission.release(self)
        self._body = b""
        self._transport.write(self._context.writer.render(error_response(refusal), connection=b"close"))
        self._close_gently()

    def _close_gently(self) -> None:
        """Close the sending side, and drop what still arrives: closing at once could discard the response."""
        self._enter(CLOSING, _LINGER_S)
        if self._transport.can_write_eof():
            self._transport.write_eof()


def _too_large(limit: int) -> RefusalError:
    return RefusalError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a body may have at most {limit} bytes; send fewer samples, or raise max_body_bytes under [endpoint]",
    )
