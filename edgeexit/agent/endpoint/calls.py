"""One handler per HTTP call of the Open Inference Protocol, and one for feedback."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from tornado.web import Application

from edgeexit.agent.endpoint.codec import decode_feedback, decode_request, encode_json, encode_response
from edgeexit.agent.endpoint.documents import RepositoryEntry
from edgeexit.agent.endpoint.transport import MAX_LENGTH_DIGITS, BodyHandler, Handler, InferenceService, RefusalError
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
        """Store the state that all handlers share."""
        super().initialize(service)
        self._inference: Future[Inference] | None = None

    async def reply(self, *path: str | None) -> None:
        """Run the samples under the active policy."""
        self.check_model(*path)
        service = self.service
        try:
            request = decode_request(
                self.body,
                self._header_length(),
                inputs=[tensor.name for tensor in service.model.inputs],
                outputs=[tensor.name for tensor in service.model.outputs],
            )
            active, self._inference = service.agent.submit(request.inputs, id=request.id)
            result = await asyncio.wrap_future(self._inference)
        except OverloadedError as error:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        except (ProtocolError, DataError) as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
        except InferenceError as error:
            if service.is_new_failure(error):
                _log.warning("a request failed: %s", error)
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error
        except asyncio.CancelledError:  # the client has disconnected
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
        """Cancel the inference of a client that has disconnected, unless it has started."""
        super().on_connection_close()
        if self._inference is not None:
            self._inference.cancel()

    def _header_length(self) -> int | None:
        text = self.request.headers.get(_HEADER_LENGTH)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < MAX_LENGTH_DIGITS):
            raise ProtocolError(f"{_HEADER_LENGTH} is '{text}'; it must be the number of bytes of the JSON")
        return int(text)


class FeedbackHandler(BodyHandler):
    """`POST /edgeexit/v1/feedback`."""

    async def reply(self, *_: str | None) -> None:
        """Attach labels to the audited samples of an earlier inference."""
        try:
            feedback = decode_feedback(self.body)
            attached = self.service.agent.feedback(feedback.id, feedback.label)
        except EdgeExitError as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not attached:
            raise RefusalError(
                HTTPStatus.NOT_FOUND,
                f"no sample of id '{feedback.id}' waits for a label: none was drawn for an audit, or the audited "
                "samples have been sent already (see feedback_window_s)",
            )
        self.write(b"{}")


class LiveHandler(Handler):
    """`GET /v2/health/live`."""

    async def reply(self, *_: str | None) -> None:
        """Respond as long as the process runs."""
        self.write(b"{}")


class ReadyHandler(Handler):
    """`GET /v2/health/ready` and `GET /v2/models/{name}[/versions/{version}]/ready`."""

    async def reply(self, *path: str | None) -> None:
        """Respond with 200 if inference works, else 503."""
        if path:
            self.check_model(*path)
        if not self.service.ready:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "inference does not complete; try again later")
        self.write(b"{}")


class ServerHandler(Handler):
    """`GET /v2`."""

    async def reply(self, *_: str | None) -> None:
        """Respond with the server metadata."""
        self.write(encode_json(self.service.server))


class ModelHandler(Handler):
    """`GET /v2/models/{name}[/versions/{version}]`."""

    async def reply(self, *path: str | None) -> None:
        """Respond with the model metadata."""
        self.check_model(*path)
        self.write(encode_json(self.service.model))


class IndexHandler(Handler):
    """`POST /v2/repository/index`."""

    verb = "POST"

    async def reply(self, *_: str | None) -> None:
        """List the model."""
        model, ready = self.service.model, self.service.ready
        entry = RepositoryEntry(name=model.name, version=model.versions[0], state="READY" if ready else "UNAVAILABLE")
        self.write(encode_json([entry]))


class _UnknownPathHandler(Handler):
    def check(self) -> None:
        raise RefusalError(HTTPStatus.NOT_FOUND, f"there is no call {self.request.path}; docs/agent.md lists the calls")


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
    """Return the application with a handler for every path."""
    shared = {"service": service}
    return Application(
        [(pattern, handler, shared) for pattern, handler in _ROUTES],
        default_handler_class=_UnknownPathHandler,
        default_handler_args=shared,
        log_function=lambda _: None,  # do not log every request
    )
