"""The bytes of a response."""

from __future__ import annotations

import email.utils
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from edgeexit.agent.endpoint.codec import encode_json

if TYPE_CHECKING:
    from edgeexit.agent.endpoint.refusal import RefusalError

JSON: Final = b"application/json"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_RETRY_AFTER: Final = b"Retry-After: 1\r\n"
_STATUS_LINES: Final = {status: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


class Response:
    """Status, body and headers of a response."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, body: bytes, *, status: HTTPStatus = HTTPStatus.OK, content_type: bytes = JSON, headers: bytes = b""
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers
        """Further header lines, each with its line break."""


class ResponseWriter:
    """Renders responses; the date is cached for one second."""

    def __init__(self) -> None:
        self._second = 0
        self._date = b""

    def render(self, response: Response, *, connection: bytes = b"", with_body: bool = True) -> bytes:
        """Return the bytes of a response.

        Args:
            response: the response.
            connection: value of the Connection header; empty: none.
            with_body: False for the response to a HEAD request.

        """
        now = int(time.time())
        if now != self._second:
            self._second, self._date = now, email.utils.formatdate(now, usegmt=True).encode()
        return b"%b\r\nServer: edgeexit\r\nDate: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n%b" % (
            _STATUS_LINES[response.status],
            self._date,
            response.content_type,
            len(response.body),
            response.headers,
            b"Connection: %b\r\n" % connection if connection else b"",
            response.body if with_body else b"",
        )


def error_response(refusal: RefusalError) -> Response:
    """Return `{"error": ...}` on one line."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in refusal.headers.items()).encode()
    if refusal.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers += _RETRY_AFTER
    return Response(encode_json({"error": refusal.text}), status=refusal.status, headers=headers)
