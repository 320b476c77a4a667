"""How a request comes in and its answer goes out: refused in JSON, bounded, and not waited for without end.

A body is taken in as it comes, so that one that is too large is refused before it is there. Whatever goes wrong, the
client gets `{"error": "..."}` in one line, and no traceback.
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

MAX_NUMBER: Final = 16
"""Digits of a length that is believed."""

_JSON: Final = "application/json"
_RETRY_AFTER_S: Final = "1"
_DROPPED_BODIES: Final = 4
"""Times the largest body: what is refused and longer than that is not waited for."""
_SEE_OFF_S: Final = 0.1


class InferenceService:
    """What all handlers share."""

    def __init__(self, agent: Agent, config: EndpointConfig, server: ServerMetadata, model: ModelMetadata) -> None:
        self.agent = agent
        self.config = config
        self.server = server
        self.model = model
        self.admission = Admission(max_requests=config.max_requests, max_bytes=4 * config.max_body_bytes)
        self.ready = True
        """False: inference does not answer, or the endpoint is about to stop."""
        self._told = ""

    def is_news(self, failure: BaseException) -> bool:
        """Return whether a failure is another than the last: a line a request would fill the disk."""
        before, self._told = self._told, repr(failure)
        return self._told != before


class RefusalError(HTTPError):
    """What the client is told in place of an answer."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(status.value)
        self.text = text


@stream_request_body
class Handler(RequestHandler):
    """Refuses in JSON, drops a body that nobody asked for, and gives up clients that do not read their answer."""

    verb: ClassVar[str] = "GET"

    def initialize(self, service: InferenceService) -> None:
        """Begin with nothing to refuse."""
        self.service = service
        self._refusal: RefusalError | None = None

    def set_default_headers(self) -> None:
        """Answer in JSON unless a call says otherwise."""
        self.set_header("Server", "edgeexit")
        self.set_header("Content-Type", _JSON)

    def check(self) -> None:
        """Raise RefusalError for what the headers say already."""
        if "Origin" in self.request.headers:
            # A page that a browser on this machine shows could ask, too: localhost is no secret.
            raise RefusalError(HTTPStatus.FORBIDDEN, "requests of web pages are not answered")

    async def reply(self, *path: str | None) -> None:
        """Answer the request, whose body is there; `path` holds the variable parts of the path."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Look at the headers, before the body is there."""
        try:
            self.check()
        except RefusalError as refusal:
            if self.told_size() > _DROPPED_BODIES * self.service.config.max_body_bytes:
                raise
            # To close while a client is still sending could cost it the answer; so it is told behind its body.
            self._refusal = refusal

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Drop what nobody asked for."""

    async def get(self, *path: str | None) -> None:
        """Answer where the call is a GET."""
        await self._reply(path)

    async def post(self, *path: str | None) -> None:
        """Answer where the call is a POST."""
        await self._reply(path)

    async def _reply(self, path: tuple[str | None, ...]) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self.request.method != self.verb:
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        await self.reply(*path)

    def told_size(self) -> int:
        """Return how large a body the headers announce; 0 where they do not say, or not in digits."""
        told = self.request.headers.get("Content-Length", "")
        return int(told) if told.isascii() and told.isdigit() and len(told) < MAX_NUMBER else 0

    def check_model(self, name: str | None, version: str | None) -> None:
        """Refuse another model, or another version of it, than the one that is served."""
        model = self.service.model
        if name != model.name:
            raise RefusalError(HTTPStatus.NOT_FOUND, f"model '{name}' is not here; '{model.name}' is")
        if version not in {None, *model.versions}:
            raise RefusalError(
                HTTPStatus.NOT_FOUND, f"model '{name}' has no version '{version}'; it has {model.versions[0]}"
            )

    def finish(self, chunk: Any = None) -> asyncio.Future[None]:
        """Send the answer, and look after it."""
        sent = super().finish(chunk)
        self._see_off(sent, time.monotonic() + self.service.config.transfer_timeout_s)
        return sent

    def departed(self) -> None:
        """Take note that the answer has gone out or never will; may be called more than once."""

    def on_connection_close(self) -> None:
        """Take note that the client has gone before its answer."""
        self.departed()

    def _see_off(self, sent: asyncio.Future[None], deadline: float) -> None:
        """Look after an answer until it has gone out, its client has gone, or its time is over."""
        connection = cast("HTTP1Connection", self.request.connection)
        if not sent.done() and not connection.stream.closed():
            if time.monotonic() < deadline:
                IOLoop.current().call_later(_SEE_OFF_S, self._see_off, sent, deadline)
                return
            connection.close()
        self.departed()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell the client in one line; what only the agent's log should know, stays there."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, RefusalError):
            text = error.text
        elif status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            text = "the agent failed; its log says more"
        else:
            text = f"{self.request.method} {self.request.path}: {self._reason}"
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            text += f"; use {self.verb}"
            self.set_header("Allow", self.verb)
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", _RETRY_AFTER_S)
        self.finish(encode_json({"error": text}))

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log what the agent did wrong, not what a client did."""
        if value is not None and not isinstance(value, HTTPError) and self.service.is_news(value):
            super().log_exception(typ, value, tb)


class BodyHandler(Handler):
    """Takes in a body of bounded size, where there is room for one more request."""

    verb = "POST"

    def initialize(self, service: InferenceService) -> None:
        """Begin with an empty body."""
        super().initialize(service)
        self.body = bytearray()
        self._entered: int | None = None

    def check(self) -> None:
        """Refuse what is too large, compressed, or one request too many."""
        super().check()
        most = self.service.config.max_body_bytes
        if self.request.headers.get("Content-Encoding", "identity") != "identity":
            raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a compressed body is not taken; send it as it is")
        if self.told_size() > most:
            raise self._too_large()
        size = self.told_size() or most
        try:
            self.service.admission.enter(size)
        except OverloadedError as error:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        self._entered = size

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Keep what comes, up to the bound."""
        if self._refusal is None:
            self.body += chunk
            if len(self.body) > self.service.config.max_body_bytes:  # it did not say how large it would be
                self._refusal, self.body = self._too_large(), bytearray()
        return None

    def departed(self) -> None:
        """Make room for the next."""
        size, self._entered = self._entered, None
        if size is not None:
            self.service.admission.leave(size)

    def _too_large(self) -> RefusalError:
        most = self.service.config.max_body_bytes
        return RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"a body may have {most} bytes; send fewer samples, or set max_body_bytes under [endpoint]",
        )
