"""One connection of a client: receives requests one at a time, within limits of time, and sends the responses.

On every error the client gets `{"error": "..."}` on one line, without a traceback. After an error in the protocol the
connection is closed, because the start of the next request is not known.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, cast

from edgeexit.agent.endpoint.open_connection import BODY, BUSY, CLOSING, HEAD, IDLE, SENDING
from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.agent.endpoint.request_reader import RequestReader
from edgeexit.agent.endpoint.response import CONTINUE, Response, ResponseWriter, error_response
from edgeexit.errors import OverloadedError

if TYPE_CHECKING:
    import socket

    from edgeexit.agent.config import EndpointConfig
    from edgeexit.agent.endpoint.admission import Admission
    from edgeexit.agent.endpoint.connections import Connections
    from edgeexit.agent.endpoint.head import RequestHead
    from edgeexit.limited_log import LimitedLog

_LINGER_S: Final = 2.0
"""After an error, what the client still sends is dropped for this long, so that it can read the response."""
_PROBE_S: Final = 0.05
"""How often it is checked whether a client that sends no more still waits for its response."""


class Call(Protocol):
    """The call that a request's head names."""

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of the body; 0: it is dropped."""

    def start(self, connection: ClientConnection, head: RequestHead, body: bytes | bytearray) -> None:
        """Respond to a complete request by `ClientConnection.respond`, now or later. Raises RefusalError."""

    def cancel(self, connection: ClientConnection) -> None:
        """Cancel a request whose client has disconnected."""


class Router(Protocol):
    """Finds the call of a request."""

    def find(self, head: RequestHead, *, is_local_socket: bool) -> Call:
        """Return the call. Raises RefusalError if the request is refused whatever its body is."""


class ConnectionContext:
    """What all connections share."""

    def __init__(
        self,
        config: EndpointConfig,
        router: Router,
        admission: Admission,
        connections: Connections,
        limited: LimitedLog,
    ) -> None:
        self.config = config
        self.limited = limited
        self.router = router
        self.admission = admission
        self.connections = connections
        self.writer = ResponseWriter()


class ClientConnection(asyncio.Protocol):
    """One connection; `OpenConnection` describes its attributes."""

    def __init__(self, context: ConnectionContext) -> None:
        self._context = context
        self._reader = RequestReader(self, context.config.max_body_bytes)
        self._transport: asyncio.Transport
        self.state = IDLE
        self.since = self.deadline = 0.0
        self.peer = ""
        self._is_local_socket = False
        self._call: Call | None = None
        self._is_running = False
        self._is_half_closed = False
        """True: the client sends no more, and may wait for its response."""

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
        self.state, self.deadline = CLOSING, math.inf
        self._reader.take_body()

    def eof_received(self) -> bool:
        """Keep the connection until the response is sent: a client may close its sending side after the request."""
        self._is_half_closed = True
        if self.state in {HEAD, BODY}:
            self._fail(RefusalError(HTTPStatus.BAD_REQUEST, "the request ended before it was complete"))
        elif self.state == BUSY:
            asyncio.get_running_loop().call_later(_PROBE_S, self._probe, True)  # noqa: FBT003 - a callback's argument
        return self.state in {BUSY, SENDING}

    def resume_writing(self) -> None:
        """Continue after the client has read its response."""
        if self.state == SENDING:
            self._finish_response()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and start the request when it is complete."""
        if self.state == CLOSING:
            return
        if self.state == IDLE:
            if not data.lstrip(b"\r\n"):  # some clients send a line break after a body
                return
            self._enter(HEAD, self._context.config.header_timeout_s)
        reader = self._reader
        try:
            reader.feed(data)
        except RefusalError as refusal:
            self._fail(refusal)
            return
        if reader.has_early_request:
            self._transport.pause_reading()
        if self.state >= BUSY:
            return
        if reader.is_complete:
            self.state, self.deadline = BUSY, math.inf
            self._start()
        elif self.state == HEAD and not reader.in_head:
            self._enter(BODY, self._context.config.transfer_timeout_s)

    # Called by the reader.

    def find_call(self, head: RequestHead) -> Call:
        """Return the call that a head names. Raises RefusalError if the request is refused whatever its body is."""
        self._call = None
        self._call = self._context.router.find(head, is_local_socket=self._is_local_socket)
        return self._call

    def hold(self, size: int) -> None:
        """Count `size` more bytes of the body. Raises OverloadedError if there is no room for them."""
        self._context.admission.receive(self, size)

    def drop(self) -> None:
        """Stop counting the bytes of the body."""
        self._context.admission.release(self)

    def send_continue(self) -> None:
        """Ask the client to send the body."""
        self._transport.write(CONTINUE)

    def log_internal_error(self, error: BaseException | None) -> None:
        """Log an error that is not the client's."""
        self._context.limited.error(repr(error), "a request could not be parsed: %s", error, exc_info=error)

    # Called by calls.

    def respond(self, response: Response) -> None:
        """Send the response; without effect if the client has disconnected."""
        self._is_running = False
        if self.state != BUSY or self._transport.is_closing():
            return
        head = self._reader.head
        connection = b"" if self._reader.keeps_alive else b"close"
        if not connection and head.version == "1.0":
            connection = b"keep-alive"
        self._transport.write(
            self._context.writer.render(response, connection=connection, with_body=head.method != "HEAD")
        )
        if self.unsent_bytes:
            self._enter(SENDING, self._context.config.transfer_timeout_s)
            self._context.connections.limit_unsent()
        else:
            self._finish_response()

    # Called by the bookkeeping of bodies and connections.

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait until the client reads."""
        return self._transport.get_write_buffer_size()

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
            self.abort()

    def evict(self) -> None:
        """Close the connection at once, because a new one needs its place."""
        if self.state in {HEAD, BODY}:
            self._fail(
                RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open; send the request faster")
            )
        if self.state != IDLE and self.unsent_bytes:
            self.abort()
        self.close()

    def close(self) -> None:
        """Close the connection after what has been written is sent."""
        self._enter(CLOSING, _LINGER_S)
        self._transport.close()

    def abort(self) -> None:
        """Close the connection, and drop what has not been sent."""
        self._transport.abort()

    # Steps.

    def _enter(self, state: int, timeout_s: float) -> None:
        self.state, self.since = state, time.monotonic()
        self.deadline = self.since + timeout_s

    def _start(self) -> None:
        """Start the call of a complete request."""
        reader, call = self._reader, self._call
        if reader.refusal is not None or call is None:
            refused = reader.refusal or RefusalError(HTTPStatus.NOT_FOUND, "there is no such call")
            self.respond(error_response(refused))
            return
        try:
            if call.max_body_bytes:  # the other calls run at once
                self._context.admission.start(self)
            self._is_running = True
            call.start(self, reader.head, reader.take_body())
        except OverloadedError as error:
            self.respond(error_response(RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))))
        except RefusalError as refusal:
            self.respond(error_response(refusal))

    def _finish_response(self) -> None:
        """Wait for the next request, or close."""
        self._context.admission.release(self)
        if not self._reader.keeps_alive:
            self._transport.resume_reading()
            self._close_gently()
        elif self._reader.has_early_request:
            self._transport.resume_reading()
            self._fail(
                RefusalError(
                    HTTPStatus.BAD_REQUEST,
                    "requests cannot be pipelined; send the next one after the response to the previous one",
                )
            )
        elif self._is_half_closed:
            self.close()
        else:
            self._reader.next_request()
            self._enter(IDLE, self._context.config.idle_timeout_s)

    def _fail(self, refusal: RefusalError) -> None:
        """Send an error, and close the connection when the client has had time to read it."""
        if self.state == CLOSING or self._transport.is_closing():
            return
        self._context.admission.release(self)
        self._reader.take_body()
        self._transport.write(self._context.writer.render(error_response(refusal), connection=b"close"))
        self._close_gently()

    def _close_gently(self) -> None:
        """Close the sending side, and drop what still arrives: closing at once could discard the response."""
        if self._is_half_closed:
            self.close()
            return
        self._enter(CLOSING, _LINGER_S)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _probe(self, first: bool) -> None:  # noqa: FBT001 - a callback
        """Cancel the request of a client that sends no more if it has disconnected.

        Over TCP, a client that has disconnected looks like one that has closed its sending side, until something is
        sent to it: a 100 response, which clients ignore (RFC 9110, section 15.2).
        """
        if self.state != BUSY or self._transport.is_closing():
            return
        if _is_disconnected(self._transport.get_extra_info("socket")):
            self.abort()
            return
        if first and not self._is_local_socket and self._reader.head.version != "1.0":
            self._transport.write(CONTINUE)
        asyncio.get_running_loop().call_later(_PROBE_S, self._probe, False)  # noqa: FBT003 - a callback's argument


def _is_disconnected(opened: socket.socket) -> bool:
    """Return True if both directions of a socket are closed."""
    poll = select.poll()
    poll.register(opened.fileno(), 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
