"""The error that refuses a request with an HTTP status and one line for the client."""

from collections.abc import Mapping
from http import HTTPStatus


class RefusalError(Exception):
    """Refuses a request.

    Args:
        status: HTTP status of the response.
        text: one line for the client.
        close: whether the connection is closed at once, because what follows the request cannot be trusted.
        headers: further headers of the response.

    """

    def __init__(
        self, status: HTTPStatus, text: str, *, close: bool = False, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.close = close
        self.headers = headers or {}
