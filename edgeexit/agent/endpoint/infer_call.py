"""The inference call: decodes the request, runs it, and encodes the response."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from edgeexit.agent.endpoint.codec import InferRequest, decode_request, encode_response
from edgeexit.agent.endpoint.dispatch import InferJob
from edgeexit.agent.endpoint.head import is_length
from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.agent.endpoint.response import JSON, Response, error_response
from edgeexit.agent.endpoint.result_limit import ResultLimit
from edgeexit.errors import DataError, InferenceError, OverloadedError, ProtocolError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from edgeexit.agent.endpoint.connection import ClientConnection
    from edgeexit.agent.endpoint.dispatch import Dispatcher
    from edgeexit.agent.endpoint.head import RequestHead
    from edgeexit.agent.endpoint.service import InferenceService
    from edgeexit.agent.policy.active_policy import ActivePolicy
    from edgeexit.runtime import Inference

_BYTES: Final = b"application/octet-stream"
_HEADER_LENGTH: Final = "inference-header-content-length"
_LONG_BYTES: Final = 256 * 1024
"""A longer body is decoded, and a response of so many numbers encoded, in another thread: the loop stays responsive."""
_LONG_NUMBERS: Final = 32 * 1024
_HELD_RESULTS: Final = 4
"""The results of one request may have this many times `max_body_bytes`."""


class _Coding:
    """Work for the coder's thread. Once cancelled, it keeps no body alive while it waits for the thread."""

    __slots__ = ("code", "is_cancelled")

    def __init__(self, code: Callable[[], Any]) -> None:
        self.code: Callable[[], Any] | None = code
        self.is_cancelled = False

    def __call__(self) -> Any:
        code, self.code = self.code, None
        return None if code is None else code()

    def cancel(self) -> None:
        self.code, self.is_cancelled = None, True


class InferCall:
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    def __init__(self, service: InferenceService, dispatcher: Dispatcher, loop: asyncio.AbstractEventLoop) -> None:
        self.max_body_bytes = service.config.max_body_bytes
        self._service = service
        self._statistics = service.statistics
        self._dispatcher = dispatcher
        self._loop = loop
        self._limit = ResultLimit(service.agent.manifest, _HELD_RESULTS * service.config.max_body_bytes)
        self._outputs = tuple(tensor.name for tensor in service.model.outputs)
        self._coder = ThreadPoolExecutor(1, thread_name_prefix="agent-endpoint-coder")
        self._jobs: dict[ClientConnection, InferJob] = {}
        self._codings: dict[ClientConnection, _Coding] = {}

    def close(self) -> None:
        """End the thread that codes long messages."""
        self._coder.shutdown(wait=False, cancel_futures=True)

    def start(self, connection: ClientConnection, head: RequestHead, body: bytes | bytearray) -> None:
        """Run the samples under the active policy."""
        started_ns = time.perf_counter_ns()
        try:
            header_length = _header_length(head)
            if len(body) <= _LONG_BYTES:
                self._submit(connection, self._decode(body, header_length), started_ns)
                return
        except Exception as error:
            raise self._refusal(error, started_ns) from error
        self._in_coder(
            connection,
            lambda: self._decode(body, header_length),
            lambda request: self._submit_or_refuse(connection, request, started_ns),
            started_ns,
        )

    def cancel(self, connection: ClientConnection) -> None:
        """Cancel the decoding, inference or encoding for a client that has disconnected, unless it has started."""
        coding = self._codings.pop(connection, None)
        if coding is not None:
            coding.cancel()
        job = self._jobs.pop(connection, None)
        if job is not None:
            self._dispatcher.cancel(job)

    def _decode(self, body: bytes | bytearray, header_length: int | None) -> InferRequest:
        request = decode_request(body, header_length, inputs=self._service.inputs, outputs=self._outputs)
        self._limit.check(request.inputs)
        return request

    def _submit_or_refuse(self, connection: ClientConnection, request: InferRequest, started_ns: int) -> None:
        try:
            self._submit(connection, request, started_ns)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            self._refuse(connection, error, started_ns)

    def _submit(self, connection: ClientConnection, request: InferRequest, started_ns: int) -> None:
        decoded_ns = time.perf_counter_ns()

        def done(active: ActivePolicy | None, result: Inference | BaseException) -> None:
            self._jobs.pop(connection, None)
            if isinstance(result, BaseException) or active is None:
                self._refuse(connection, result, started_ns)
                return
            inferred_ns = time.perf_counter_ns()
            if result.outputs.size > _LONG_NUMBERS:
                self._in_coder(
                    connection,
                    lambda: self._encode(request, active, result),
                    partial(self._respond, connection, len(result.exits), (started_ns, decoded_ns, inferred_ns)),
                    started_ns,
                )
                return
            try:
                response = self._encode(request, active, result)
            except Exception as error:  # noqa: BLE001 - every error becomes a response
                self._refuse(connection, error, started_ns)
            else:
                self._respond(connection, len(result.exits), (started_ns, decoded_ns, inferred_ns), response)

        job = InferJob(request.inputs, request.id, done)
        self._dispatcher.submit(job)
        self._jobs[connection] = job

    def _respond(
        self, connection: ClientConnection, samples: int, times_ns: tuple[int, int, int], response: Response
    ) -> None:
        self._statistics.record_success(samples, times_ns, time.perf_counter_ns())
        connection.respond(response)

    def _encode(self, request: InferRequest, active: ActivePolicy, result: Inference) -> Response:
        model = self._service.model
        body, header_length = encode_response(
            result,
            request.outputs,
            model=model.name,
            version=model.versions[0],
            request_id=request.id,
            parameters={"revision": active.revision, "policy": active.policy.kind},
        )
        if header_length is None:
            return Response(body, content_type=JSON)
        return Response(body, content_type=_BYTES, headers=b"Inference-Header-Content-Length: %d\r\n" % header_length)

    def _in_coder(
        self,
        connection: ClientConnection,
        code: Callable[[], Any],
        then: Callable[[Any], None],
        started_ns: int,
    ) -> None:
        """Run `code` in the coder's thread, and `then` with its result in the loop, unless the client disconnects."""
        coding = self._codings[connection] = _Coding(code)

        def finish(done: asyncio.Future[Any]) -> None:
            if done.cancelled():
                return
            error = done.exception()
            if coding.is_cancelled:
                return
            del self._codings[connection]
            if error is None:
                then(done.result())
            else:
                self._refuse(connection, error, started_ns)

        self._loop.run_in_executor(self._coder, coding).add_done_callback(finish)

    def _refuse(self, connection: ClientConnection, error: Any, started_ns: int) -> None:
        connection.respond(error_response(self._refusal(error, started_ns)))

    def _refusal(self, error: BaseException, started_ns: int) -> RefusalError:
        """Count a failure, and return the refusal for it; details of an internal error go to the log only."""
        self._statistics.record_failure(time.perf_counter_ns() - started_ns)
        if isinstance(error, RefusalError):
            return error
        if isinstance(error, OverloadedError):
            return RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if isinstance(error, ProtocolError | DataError):
            return RefusalError(HTTPStatus.BAD_REQUEST, str(error))
        self._service.log_failure(error)
        if isinstance(error, InferenceError):
            return RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log of the agent")


def _header_length(head: RequestHead) -> int | None:
    text = head.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not is_length(text):
        raise ProtocolError(f"Inference-Header-Content-Length is '{text}'; it must be the number of bytes of the JSON")
    return int(text)
