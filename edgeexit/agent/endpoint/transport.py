"""Receives requests and sends responses with bounds on size and time, and reports errors as JSON.

A body is received in chunks, so that a body that is too large is refused before all of it has arrived. On every error
the client gets `{"error": "..."}` on one line, without a traceback.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler, stream_request_body

from edgeexit.agent.endpoint.admission import Admission
from edgeexit.agent.endpoint.codec import encode_json
from edgeexit.errors import OverloadedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from tornado.http1connection import HTTP1Connection

    from edgeexit.agent.agent import Agent
    from edgeexit.agent.config import EndpointConfig
    from edgeexit.agent.endpoint.documents import ModelMetadata, ServerMetadata

MAX_LENGTH_DIGITS: Final = 16
"""A length with this many digits or more is not valid."""

_JSON: Final = "application/json"
_RETRY_AFTER_S: Final = "1"
_MAX_DRAINED_BODIES: Final = 4
"""The body of a refused request is read and dropped if it is at most this many times `max_body_bytes`."""
_RESPONSE_POLL_S: Final = 0.1


class InferenceService:
    """State that all handlers share."""

    def __init__(self, agent: Agent, config: EndpointConfig, server: ServerMetadata, model: ModelMetadata) -> None:
        self.agent = agent
        self.config = config
        self.server = server
        self.model = model
        self.admission = Admission(max_requests=config.max_requests, max_bytes=4 * config.max_body_bytes)
        self.ready = True
        """False: inference does not complete, or the endpoint is stopping."""
        self._last_failure = ""

    def is_new_failure(self, failure: BaseException) -> bool:
        """Return True if a failure differs from the last one: logging it for every request would fill the disk."""
        before, self._last_failure = self._last_failure, repr(failure)
        return self._last_failure != before


class RefusalError(HTTPError):
    """Refuses a request with an HTTP status and a one-line text for the client."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(status.value)
        self.text = text


@stream_request_body
class Handler(RequestHandler):
    """Reports errors as JSON, drops an unexpected body, and disconnects clients that do not read their response."""

    verb: ClassVar[str] = "GET"

    def initialize(self, service: InferenceService) -> None:
        """Store the state that all handlers share."""
        self.service = service
        self._refusal: RefusalError | None = None

    def set_default_headers(self) -> None:
        """Set the headers of a JSON response."""
        self.set_header("Server", "edgeexit")
        self.set_header("Content-Type", _JSON)

    def check(self) -> None:
        """Raise RefusalError if the headers already show that the request must be refused."""
        if "Origin" in self.request.headers:
            # A web page that a browser on this machine shows can send requests to localhost, too.
            raise RefusalError(
                HTTPStatus.FORBIDDEN, "requests with an Origin header, which web pages send, are refused"
            )

    async def reply(self, *path: str | None) -> None:
        """Respond to the request, whose body has been received; `path` holds the variable parts of the path."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Check the headers before the body is received."""
        try:
            self.check()
        except RefusalError as refusal:
            if self.declared_size() > _MAX_DRAINED_BODIES * self.service.config.max_body_bytes:
                raise
            # A client that is still sending may miss a response, so its body is received first.
            self._refusal = refusal

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Drop an unexpected body."""

    async def get(self, *path: str | None) -> None:
        """Respond if the call is a GET."""
        await self._reply(path)

    async def post(self, *path: str | None) -> None:
        """Respond if the call is a POST."""
        await self._reply(path)

    async def _reply(self, path: tuple[str | None, ...]) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self.request.method != self.verb:
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        await self.reply(*path)

    def declared_size(self) -> int:
        """Return the Content-Length of the request; 0 if it is missing or not valid."""
        text = self.request.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_LENGTH_DIGITS else 0

    def check_model(self, name: str | None, version: str | None) -> None:
        """Raise RefusalError if this is not the name or version of the model that is served."""
        model = self.service.model
        if name != model.name:
            raise RefusalError(
                HTTPStatus.NOT_FOUND, f"there is no model '{name}'; the endpoint serves model '{model.name}'"
            )
        if version not in {None, *model.versions}:
            raise RefusalError(
                HTTPStatus.NOT_FOUND, f"model '{name}' has no version '{version}'; its version is {model.versions[0]}"
            )

    def finish(self, chunk: Any = None) -> asyncio.Future[None]:
        """Send the response, and watch that the client reads it in time."""
        sent = super().finish(chunk)
        self._watch_response(sent, time.monotonic() + self.service.config.transfer_timeout_s)
        return sent

    def release(self) -> None:
        """Release the resources of the request.

        Called when the response is sent or cannot be sent; further calls have no effect.
        """

    def on_connection_close(self) -> None:
        """Release the request of a client that has disconnected."""
        self.release()

    def _watch_response(self, sent: asyncio.Future[None], deadline: float) -> None:
        """Wait until the response is sent, the client disconnects or the deadline passes; then release the request."""
        connection = cast("HTTP1Connection", self.request.connection)
        if not sent.done() and not connection.stream.closed():
            if time.monotonic() < deadline:
                IOLoop.current().call_later(_RESPONSE_POLL_S, self._watch_response, sent, deadline)
                return
            connection.close()
        self.release()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send the error on one line; details of an internal error go to the log only."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, RefusalError):
            text = error.text
        elif status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            text = "internal error; see the log of the agent"
        else:
            text = f"{self.request.method} {self.request.path}: {self._reason}"
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            text += f"; use {self.verb}"
            self.set_header("Allow", self.verb)
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", _RETRY_AFTER_S)
        self.finish(encode_json({"error": text}))

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log errors of the agent, not errors of clients."""
        if value is not None and not isinstance(value, HTTPError) and self.service.is_new_failure(value):
            super().log_exception(typ, value, tb)


class BodyHandler(Handler):
    """Receives a body of bounded size, if the limits admit one more request."""

    verb = "POST"

    def initialize(self, service: InferenceService) -> None:
        """Store the state that all handlers share, and start with an empty body."""
        super().initialize(service)
        self.body = bytearray()
        self._admitted: int | None = None

    def check(self) -> None:
        """Raise RefusalError if the body is too large or compressed, or if too many requests are in flight."""
        super().check()
        limit = self.service.config.max_body_bytes
        if self.request.headers.get("Content-Encoding", "identity") != "identity":
            raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not supported")
        if self.declared_size() > limit:
            raise self._too_large()
        size = self.declared_size() or limit
        try:
            self.service.admission.enter(size)
        except OverloadedError as error:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        self._admitted = size

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Append a chunk, up to the limit."""
        if self._refusal is None:
            self.body += chunk
            if len(self.body) > self.service.config.max_body_bytes:  # it had no valid Content-Length
                self._refusal, self.body = self._too_large(), bytearray()
        return None

    def release(self) -> None:
        """Stop counting this request against the limits."""
        size, self._admitted = self._admitted, None
        if size is not None:
            self.service.admission.leave(size)

    def _too_large(self) -> RefusalError:
        limit = self.service.config.max_body_bytes
        return RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"a body may have at most {limit} bytes; send fewer samples, or raise max_body_bytes under [endpoint]",
        )
