"""The head of a request: method, target and headers, and the rules that hold for every call."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from edgeexit.agent.endpoint.refusal import RefusalError

MAX_LENGTH_DIGITS: Final = 16
"""A length with this many digits or more is not valid."""

_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
"""A target as clients send it to proxies; servers accept it, too (RFC 9112, section 3.2.2)."""
_LINE_BYTES: Final = len(": \r\n")
_VERSIONS: Final = ("1.1", "1.0")
_ONCE: Final = frozenset(
    {
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "inference-header-content-length",
    }
)
"""Headers that may occur only once: two readers of the request could use different ones."""


class RequestHead:
    """Method, target and headers of a request while they arrive, and afterwards.

    Attributes:
        method: in upper case.
        target: path and query, as bytes.
        headers: name in lower case -> value.
        version: `1.1` or `1.0`.
        offers_http2: True if the client offers to continue with HTTP/2, as Java's does, and accepts HTTP/1.1, too.
        size: bytes of the headers and trailers.

    """

    __slots__ = ("headers", "method", "offers_http2", "size", "target", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: dict[str, str] = {}
        self.version = ""
        self.offers_http2 = False
        self.size = 0

    def add(self, name: bytes, value: bytes) -> None:
        """Add a header. Raises RefusalError if it is given twice and must not be."""
        self.count(name, value)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if key in self.headers:
            if key in _ONCE:
                raise RefusalError(HTTPStatus.BAD_REQUEST, f"the header {key} is given twice", close=True)
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text

    def count(self, name: bytes, value: bytes) -> None:
        """Add a header or trailer to `size`."""
        self.size += len(name) + len(value) + _LINE_BYTES

    def complete(self, method: bytes, version: str, *, upgrade: bool) -> None:
        """Set what is known after the last header. Raises RefusalError for what the endpoint does not speak."""
        self.method, self.version = method.decode("latin-1"), version
        if not self.target.startswith(b"/"):
            self._take_path()
        if version not in _VERSIONS:
            raise RefusalError(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not supported; use HTTP/1.1", close=True
            )
        if upgrade or "upgrade" in self.headers:
            self.offers_http2 = upgrade and self.headers.get("upgrade", "").lower() == "h2c"
            if method == b"CONNECT" or not self.offers_http2:
                raise RefusalError(
                    HTTPStatus.NOT_IMPLEMENTED, "CONNECT and upgrades to other protocols are not supported", close=True
                )
        coding = self.headers.get("transfer-encoding")
        if coding is not None:
            if version == "1.0" or "content-length" in self.headers:
                raise RefusalError(
                    HTTPStatus.BAD_REQUEST, "Transfer-Encoding cannot be used in this request", close=True
                )
            if coding.lower() != "chunked":
                raise RefusalError(
                    HTTPStatus.NOT_IMPLEMENTED, f"transfer encoding '{coding[:100]}' is not supported", close=True
                )
        expectation = self.headers.get("expect")
        if expectation is not None and expectation.lower() != "100-continue":
            raise RefusalError(
                HTTPStatus.EXPECTATION_FAILED, f"the expectation '{expectation[:100]}' is not supported", close=True
            )

    def _take_path(self) -> None:
        """Reduce an absolute target to its path; its host counts, not that of the header."""
        found = _ABSOLUTE.fullmatch(self.target)
        if found is not None:
            path = found[2]
            self.target = path if path.startswith(b"/") else b"/" + path
            if "host" in self.headers or self.version == "1.0":
                self.headers["host"] = found[1].decode("latin-1")

    @property
    def waits_for_continue(self) -> bool:
        """True if the client sends its body only after a 100 response."""
        return "expect" in self.headers and self.version != "1.0"

    @property
    def declared_size(self) -> int:
        """The Content-Length; 0 if there is none. One with too many digits counts as larger than every limit."""
        text = self.headers.get("content-length", "0")
        return int(text) if is_length(text) else 10**MAX_LENGTH_DIGITS


def is_length(text: str) -> bool:
    """Return True if a header's text is a number of bytes."""
    return text.isascii() and text.isdigit() and len(text) < MAX_LENGTH_DIGITS
