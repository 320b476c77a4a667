"""The calls of the Open Inference Protocol, and two of our own: which path leads to which call."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from edgeexit.agent.endpoint.codec import decode_feedback, encode_json
from edgeexit.agent.endpoint.documents import RepositoryEntry, StatusDocument
from edgeexit.agent.endpoint.hosts import HostRule, refuse_web_pages
from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.agent.endpoint.response import Response, error_response
from edgeexit.errors import EdgeExitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeexit.agent.endpoint.connection import Call, ClientConnection
    from edgeexit.agent.endpoint.head import RequestHead
    from edgeexit.agent.endpoint.infer_call import InferCall
    from edgeexit.agent.endpoint.service import InferenceService

_MAX_FEEDBACK_BYTES: Final = 1024 * 1024
_MODEL: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/infer|/ready|/config|/stats)?")
_METHODS: Final = {"GET": ("GET", "HEAD"), "POST": ("POST",)}
"""Method of a call -> the methods that a client may use; the response to HEAD has no body."""


class _Route:
    """A call, and the methods that it takes."""

    __slots__ = ("call", "methods")

    def __init__(self, method: str, call: Call) -> None:
        self.methods = _METHODS[method]
        self.call = call


class _ImmediateCall:
    """A call that responds at once, from the endpoint's loop."""

    def __init__(
        self, service: InferenceService, reply: Callable[[bytes | bytearray], bytes], *, max_body_bytes: int = 0
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self._service = service
        self._reply = reply

    def start(self, connection: ClientConnection, head: RequestHead, body: bytes | bytearray) -> None:
        """Respond to a request."""
        del head
        try:
            response = Response(self._reply(body))
        except RefusalError as refusal:
            response = error_response(refusal)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            self._service.log_failure(error)
            response = error_response(
                RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log of the agent")
            )
        connection.respond(response)

    def cancel(self, connection: ClientConnection) -> None:
        """Do nothing: the call has ended."""


class CallRouter:
    """Finds the call that the head of a request names, and refuses heads that no call accepts."""

    def __init__(self, service: InferenceService, infer: InferCall, hosts: HostRule) -> None:
        self._service = service
        self._hosts = hosts
        self._infer = _Route("POST", infer)
        self._ready = _Route("GET", _ImmediateCall(service, self._reply_ready))
        self._model = _Route("GET", _ImmediateCall(service, lambda _: encode_json(service.model)))
        self._config = _Route("GET", _ImmediateCall(service, lambda _: encode_json(service.configuration)))
        self._stats = _Route("GET", _ImmediateCall(service, self._reply_statistics))
        server = _Route("GET", _ImmediateCall(service, lambda _: encode_json(service.server)))
        self._routes: Mapping[bytes, _Route] = {
            b"/v2": server,
            b"/v2/": server,
            b"/v2/health/live": _Route("GET", _ImmediateCall(service, lambda _: b"{}")),
            b"/v2/health/ready": self._ready,
            b"/v2/models/stats": self._stats,
            b"/v2/repository/index": _Route("POST", _ImmediateCall(service, self._reply_index)),
            b"/edgeexit/v1/status": _Route("GET", _ImmediateCall(service, self._reply_status)),
            b"/edgeexit/v1/feedback": _Route(
                "POST",
                _ImmediateCall(
                    service,
                    self._reply_feedback,
                    max_body_bytes=min(service.config.max_body_bytes, _MAX_FEEDBACK_BYTES),
                ),
            ),
        } | self._model_routes()

    def find(self, head: RequestHead, *, is_local_socket: bool) -> Call:
        """Return the call. Raises RefusalError if the request is refused whatever its body is."""
        headers = head.headers
        refuse_web_pages(headers, None if is_local_socket else self._hosts, version=head.version)
        route = self._routes.get(head.target) or self._resolve(head.target)
        if head.method not in route.methods:
            raise RefusalError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{head.method} {_printable(head.target)}: Method Not Allowed; use {route.methods[0]}",
                headers={"Allow": ", ".join(route.methods)},
            )
        return route.call

    def _model_routes(self) -> dict[bytes, _Route]:
        """Return the paths of the model without escapes, which are the ones that clients use."""
        model = self._service.model
        base = f"/v2/models/{model.name}".encode()
        return {
            path + end: route
            for path in (base, *(base + b"/versions/" + version.encode() for version in model.versions))
            for end, route in (
                (b"", self._model),
                (b"/ready", self._ready),
                (b"/infer", self._infer),
                (b"/config", self._config),
                (b"/stats", self._stats),
            )
        }

    def _resolve(self, target: bytes) -> _Route:
        """Return the route of a target with a query or escapes. Raises RefusalError if there is none."""
        try:
            path = unquote_to_bytes(target.partition(b"?")[0]).decode()
        except UnicodeDecodeError as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"the path {_printable(target)} is not UTF-8") from error
        if (route := self._routes.get(path.encode())) is not None:
            return route
        found = _MODEL.fullmatch(path)
        if found is None:
            raise RefusalError(
                HTTPStatus.NOT_FOUND, f"there is no call {_printable(target)}; docs/agent.md lists the calls"
            )
        model = self._service.model
        name, version = found[1][:100], (found[2] or "")[:100]
        if found[1] != model.name:
            text = f"there is no model '{name}'; the endpoint serves model '{model.name}'"
        else:
            text = f"model '{name}' has no version '{version}'; its version is {model.versions[0]}"
        raise RefusalError(HTTPStatus.NOT_FOUND, text)

    def _reply_ready(self, body: bytes | bytearray) -> bytes:
        """Respond with 200 if inference works, else 503."""
        del body
        if not self._service.ready:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "inference does not complete; try again later")
        return b"{}"

    def _reply_index(self, body: bytes | bytearray) -> bytes:
        """List the model."""
        del body
        model = self._service.model
        state = "READY" if self._service.ready else "UNAVAILABLE"
        return encode_json([RepositoryEntry(name=model.name, version=model.versions[0], state=state)])

    def _reply_statistics(self, body: bytes | bytearray) -> bytes:
        """Report the requests since the start."""
        del body
        model = self._service.model
        found = self._service.statistics.document(name=model.name, version=model.versions[0])
        return encode_json({"model_stats": [found]})

    def _reply_status(self, body: bytes | bytearray) -> bytes:
        """Report the connection to the fleet."""
        del body
        agent = self._service.agent
        return encode_json(
            StatusDocument(
                fleet=agent.config.fleet,
                device=agent.config.device,
                connection=agent.connection_problem,
                unacknowledged=agent.unacknowledged,
                state=agent.state,
            )
        )

    def _reply_feedback(self, body: bytes | bytearray) -> bytes:
        """Attach labels to the audited samples of an earlier inference."""
        try:
            feedback = decode_feedback(body)
            attached = self._service.agent.feedback(feedback.id, feedback.label)
        except EdgeExitError as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not attached:
            raise RefusalError(
                HTTPStatus.NOT_FOUND,
                f"no sample of id '{feedback.id}' waits for a label: none was drawn for an audit, or the audited "
                "samples have been sent already (see feedback_window_s)",
            )
        return b"{}"


def _printable(target: bytes) -> str:
    return target[:200].decode("latin-1")
