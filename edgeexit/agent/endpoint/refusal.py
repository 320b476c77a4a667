"""The error that refuses a request with an HTTP status and one line for the client."""

from http import HTTPStatus


class RefusalError(Exception):
    """Refuses a request.

    Args:
        status: HTTP status of the response.
        text: one line for the client.
        close: whether the connection is closed at once, because what follows the request cannot be trusted.
        allow: the method that the call needs, for a 405.

    """

    def __init__(self, status: HTTPStatus, text: str, *, close: bool = False, allow: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.close = close
        self.allow = allow
