"""The calls of the Open Inference Protocol over HTTP, and feedback: what each answers."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from tornado.web import Application

from edgeexit.agent.endpoint.codec import decode_feedback, decode_request, encode_json, encode_response
from edgeexit.agent.endpoint.documents import RepositoryEntry
from edgeexit.agent.endpoint.transport import MAX_NUMBER, BodyHandler, Handler, InferenceService, RefusalError
from edgeexit.errors import DataError, EdgeExitError, InferenceError, OverloadedError, ProtocolError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgeexit.runtime import Inference

_log = logging.getLogger(__name__)

_BYTES: Final = "application/octet-stream"
_HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class InferHandler(BodyHandler):
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    def initialize(self, service: InferenceService) -> None:
        """Begin with nothing under way."""
        super().initialize(service)
        self._asked: Future[Inference] | None = None

    async def reply(self, *path: str | None) -> None:
        """Answer the samples under the policy in force."""
        self.check_model(*path)
        service = self.service
        try:
            request = decode_request(
                self.body, self._header_length(), inputs=[tensor.name for tensor in service.model.inputs]
            )
            active, self._asked = service.agent.submit(request.inputs, id=request.id)
            result = await asyncio.wrap_future(self._asked)
        except OverloadedError as error:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        except (ProtocolError, DataError) as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
        except InferenceError as error:
            if service.is_news(error):
                _log.warning("a request is not answered: %s", error)
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error
        except asyncio.CancelledError:  # the client has gone
            return
        response = encode_response(
            result,
            request.outputs,
            model=service.model.name,
            version=service.model.versions[0],
            request_id=request.id,
            parameters={"revision": active.revision, "policy": active.policy.kind},
        )
        if response.header_length is not None:
            self.set_header("Content-Type", _BYTES)
            self.set_header(_HEADER_LENGTH, str(response.header_length))
        self.write(response.body)

    def on_connection_close(self) -> None:
        """Take back the question of a client that has gone."""
        super().on_connection_close()
        if self._asked is not None:
            self._asked.cancel()  # where nothing of it has run

    def _header_length(self) -> int | None:
        told = self.request.headers.get(_HEADER_LENGTH)
        if told is None:
            return None
        if not (told.isascii() and told.isdigit() and len(told) < MAX_NUMBER):
            raise ProtocolError(f"{_HEADER_LENGTH} is '{told}'; give the number of bytes of the JSON")
        return int(told)


class FeedbackHandler(BodyHandler):
    """`POST /edgeexit/v1/feedback`."""

    async def reply(self, *_: str | None) -> None:
        """Attach true classes to what is audited of an earlier inference."""
        try:
            feedback = decode_feedback(self.body)
            attached = self.service.agent.feedback(feedback.id, feedback.label)
        except EdgeExitError as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not attached:
            raise RefusalError(
                HTTPStatus.NOT_FOUND,
                f"no audited sample of id '{feedback.id}' waits for a label: none was drawn, or they have gone out",
            )
        self.write(b"{}")


class LiveHandler(Handler):
    """`GET /v2/health/live`."""

    async def reply(self, *_: str | None) -> None:
        """Say that the process runs."""
        self.write(b"{}")


class ReadyHandler(Handler):
    """`GET /v2/health/ready` and `GET /v2/models/{name}[/versions/{version}]/ready`."""

    async def reply(self, *path: str | None) -> None:
        """Say whether inference answers."""
        if path:
            self.check_model(*path)
        if not self.service.ready:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "inference does not answer now")
        self.write(b"{}")


class ServerHandler(Handler):
    """`GET /v2`."""

    async def reply(self, *_: str | None) -> None:
        """Say what this server speaks."""
        self.write(encode_json(self.service.server))


class ModelHandler(Handler):
    """`GET /v2/models/{name}[/versions/{version}]`."""

    async def reply(self, *path: str | None) -> None:
        """Say what the model takes and gives."""
        self.check_model(*path)
        self.write(encode_json(self.service.model))


class IndexHandler(Handler):
    """`POST /v2/repository/index`."""

    verb = "POST"

    async def reply(self, *_: str | None) -> None:
        """List the one model."""
        model, ready = self.service.model, self.service.ready
        entry = RepositoryEntry(name=model.name, version=model.versions[0], state="READY" if ready else "UNAVAILABLE")
        self.write(encode_json([entry]))


class _NowhereHandler(Handler):
    def check(self) -> None:
        raise RefusalError(
            HTTPStatus.NOT_FOUND, f"there is nothing at {self.request.path}; GET /v2 says what is served"
        )


class _Route(NamedTuple):
    pattern: str
    handler: type[Handler]


_MODEL: Final = r"/v2/models/([^/]+)(?:/versions/([^/]+))?"
_ROUTES: Final = (
    _Route(r"/v2/?", ServerHandler),
    _Route(r"/v2/health/live", LiveHandler),
    _Route(r"/v2/health/ready", ReadyHandler),
    _Route(r"/v2/repository/index", IndexHandler),
    _Route(_MODEL, ModelHandler),
    _Route(rf"{_MODEL}/ready", ReadyHandler),
    _Route(rf"{_MODEL}/infer", InferHandler),
    _Route(r"/edgeexit/v1/feedback", FeedbackHandler),
)


def make_application(service: InferenceService) -> Application:
    """Return the application that answers every path."""
    shared = {"service": service}
    return Application(
        [(pattern, handler, shared) for pattern, handler in _ROUTES],
        default_handler_class=_NowhereHandler,
        default_handler_args=shared,
        log_function=lambda _: None,  # no line a request
    )
