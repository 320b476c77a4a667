"""Reads the requests of one connection, one at a time, within limits of size.

The parser is llhttp (package httptools), in its strict mode: a request that two readers could understand differently
is refused.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Protocol

import httptools

from edgeexit.agent.endpoint.content_coding import BodyInflater, inflater_of
from edgeexit.agent.endpoint.head import RequestHead
from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.errors import OverloadedError

_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_TRAILER_BYTES: Final = 4 * 1024
_MAX_DRAINED_BODIES: Final = 4
"""The body of a refused request is read and dropped if it is at most this many times the maximum of a body."""
_MAX_CHUNK_OVERHEAD: Final = 2
_SMALL_BYTES: Final = 64 * 1024


class BodyLimit(Protocol):
    """What the reader needs to know about a call."""

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of the body; 0: it is dropped."""


class Receiver(Protocol):
    """The connection, as the reader sees it."""

    def find_call(self, head: RequestHead) -> BodyLimit:
        """Return the call that a head names. Raises RefusalError if the request is refused whatever its body is."""

    def hold(self, size: int) -> None:
        """Count `size` more bytes of the body. Raises OverloadedError if there is no room for them."""

    def drop(self) -> None:
        """Stop counting the bytes of the body."""

    def send_continue(self) -> None:
        """Ask the client to send the body."""

    def log_internal_error(self, error: BaseException | None) -> None:
        """Log an error that is not the client's."""


class _EarlyRequestError(Exception):
    """A request arrives before the response to the previous one."""


class _BodyReceiver:
    """Passes on what a second parser reads of a request's body."""

    def __init__(self, reader: RequestReader) -> None:
        self.on_body = reader.on_body
        self.on_message_complete = reader.on_message_complete
        self._reader = reader
        self._in_body = False

    def on_message_begin(self) -> None:
        if self._reader.is_complete:
            raise _EarlyRequestError

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # a trailer
            self._reader.on_header(name, value)


class RequestReader:
    """Reads requests.

    Args:
        receiver: the connection.
        max_body_bytes: the largest maximum of the bodies of all calls.

    Attributes:
        head: head of the current request.
        refusal: why the request is refused after its body has been received; None: it is not.
        in_head: True until the head of the request is complete.
        is_complete: True when the request is complete, until `next_request`.
        keeps_alive: False if the client closes the connection after this request.
        has_early_request: True if another request has arrived after the complete one.

    """

    def __init__(self, receiver: Receiver, max_body_bytes: int) -> None:
        self._receiver = receiver
        self._max_drained = _MAX_DRAINED_BODIES * max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self.head = RequestHead()
        self.refusal: RefusalError | None = None
        self.in_head = True
        self.is_complete = False
        self.keeps_alive = True
        self.has_early_request = False
        self._awaits_second_parser = False
        self._limit = 0
        self._body: bytes | bytearray = b""
        self._held = 0
        """Bytes of the body that count against its limit: those after decompression."""
        self._inflater: BodyInflater | None = None
        self._received = 0
        """Bytes of the body, including dropped ones."""
        self._raw = 0
        """Bytes of the head, then of the body with its framing."""

    def feed(self, data: bytes) -> None:
        """Parse what has arrived. Raises RefusalError if the connection must be closed."""
        if self.in_head:
            free = _MAX_HEAD_BYTES - self._raw
            self._raw += len(data)
            self._parse(data if len(data) <= free else data[:free])
            if self.in_head:
                if self._raw >= _MAX_HEAD_BYTES:
                    raise RefusalError(
                        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                        f"the head of a request may have at most {_MAX_HEAD_BYTES} bytes",
                    )
                return
            self._raw, data = 0, data[free:]
        if not data:
            return
        if self.is_complete:
            self.has_early_request |= bool(data.lstrip(b"\r\n"))  # some clients send a line break after a body
            return
        self._raw += len(data)
        self._parse(data)
        if self._raw - self._received > _SMALL_BYTES + _MAX_CHUNK_OVERHEAD * self._received:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "the chunks of the body are too small")

    def take_body(self) -> bytes | bytearray:
        """Return the body, and hold it no longer."""
        body, self._body = self._body, b""
        return body

    def next_request(self) -> None:
        """Prepare for the next request."""
        self.in_head, self.is_complete, self._raw = True, False, 0

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Start a request."""
        if not self.in_head:
            raise _EarlyRequestError
        self.head, self.refusal = RequestHead(), None
        self._limit = self._held = self._received = 0
        self._body, self._inflater = b"", None

    def on_url(self, url: bytes) -> None:
        """Receive the target, or a part of it."""
        self.head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header, or a trailer, which is ignored."""
        if self.in_head:
            self.head.add(name, value)
            return
        self.head.count(name, value)
        if self.head.size > _MAX_HEAD_BYTES + _MAX_TRAILER_BYTES:
            raise RefusalError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the trailers of the body are too large")

    def on_headers_complete(self) -> None:
        """Check the head, before the body arrives."""
        head, parser = self.head, self._parser
        self.in_head = False
        head.complete(parser.get_method(), parser.get_http_version(), upgrade=parser.should_upgrade())
        self.keeps_alive = parser.should_keep_alive() and not head.offers_http2
        self._awaits_second_parser = head.offers_http2
        try:
            self._limit = self._receiver.find_call(head).max_body_bytes
            if 0 < self._limit < head.declared_size:
                raise _too_large(self._limit)
            if self._limit and "content-encoding" in head.headers:
                self._inflater = inflater_of(head.headers["content-encoding"])
        except RefusalError as refusal:
            # A client that is still sending may miss a response, so a body of reasonable size is received first.
            if refusal.close or head.waits_for_continue or head.declared_size > self._max_drained:
                raise
            self.refusal = refusal
        if head.waits_for_continue:
            self._receiver.send_continue()

    def on_body(self, chunk: bytes) -> None:
        """Receive a part of the body."""
        self._received += len(chunk)
        if self.refusal is None and self._limit:
            try:
                if self._inflater is None:
                    self._append(chunk)
                else:
                    for piece in self._inflater.inflate(chunk):
                        self._append(piece)
            except OverloadedError as error:
                self._drop_body(RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))
            except RefusalError as refusal:
                self._drop_body(refusal)
        elif self._received > self._max_drained:
            raise self.refusal or _too_large(self._max_drained)

    def on_message_complete(self) -> None:
        """Mark the request as complete; it starts when the parser has returned."""
        if self._awaits_second_parser:
            return
        self.is_complete = True
        if self._inflater is not None and self.refusal is None and self._received:
            try:
                self._inflater.finish()
            except RefusalError as refusal:
                self._drop_body(refusal)

    def _append(self, chunk: bytes) -> None:
        """Add bytes to the body. Raises RefusalError or OverloadedError if there is no room for them."""
        self._held += len(chunk)
        if self._held > self._limit:  # a declared length counts before decompression, and there may be none
            raise _too_large(self._limit)
        self._receiver.hold(len(chunk))
        if not self._body:
            self._body = chunk
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += chunk

    def _drop_body(self, refusal: RefusalError) -> None:
        self.refusal, self._body, self._inflater = refusal, b"", None
        self._receiver.drop()

    def _parse_body(self, data: bytes) -> None:
        """Parse the body of a request whose offer of HTTP/2 is ignored; llhttp takes the body for HTTP/2."""
        framing = "".join(
            f"{name}: {self.head.headers[name]}\r\n"
            for name in ("content-length", "transfer-encoding")
            if name in self.head.headers
        )
        self._parser = httptools.HttpRequestParser(_BodyReceiver(self))
        self._parse(f"POST / HTTP/1.1\r\n{framing}\r\n".encode("latin-1"))
        if data:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Pass data to the parser. Raises RefusalError if it is not a valid request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            if not self._awaits_second_parser:
                raise RefusalError(
                    HTTPStatus.NOT_IMPLEMENTED, "upgrades to other protocols are not supported"
                ) from error
            rest = data[error.args[0] :]
        except httptools.HttpParserError as error:
            self._handle_error(error)
            return
        else:
            return
        self._awaits_second_parser = False
        self._parse_body(rest)

    def _handle_error(self, error: httptools.HttpParserError) -> None:
        """Raise RefusalError, unless the request is complete and only what follows it is not valid."""
        if isinstance(error, httptools.HttpParserCallbackError):
            cause = error.__context__
            if isinstance(cause, RefusalError):
                raise cause from None
            if isinstance(cause, _EarlyRequestError):
                self.has_early_request = True
                return
            self._receiver.log_internal_error(cause)
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log of the agent") from error
        if self.is_complete:
            self.has_early_request = True
            return
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            raise RefusalError(HTTPStatus.NOT_IMPLEMENTED, "the method of the request is unknown") from error
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"the request is not valid HTTP: {error}") from error


def _too_large(limit: int) -> RefusalError:
    return RefusalError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a body may have at most {limit} bytes; send fewer samples, or raise max_body_bytes under [endpoint]",
    )
