"""Decodes compressed bodies of requests while they arrive, in pieces of bounded size."""

from __future__ import annotations

import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from edgeexit.agent.endpoint.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Iterator

CODINGS: Final = ("gzip", "deflate", "identity")
"""The accepted values of the header Content-Encoding."""

_ALIASES: Final = {"x-gzip": "gzip"}
_MAX_PIECE_BYTES: Final = 256 * 1024
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_ZLIB_BITS: Final = zlib.MAX_WBITS
_RAW_BITS: Final = -zlib.MAX_WBITS
_ZLIB_HEADER_BYTES: Final = 2
_MAX_MEMBERS: Final = 1024


class BodyInflater:
    """Inflates one body.

    `deflate` is the zlib format, as HTTP defines it; the raw format, which some clients send, is accepted, too.

    Args:
        coding: `gzip` or `deflate`.

    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._decoder = None if coding == "deflate" else zlib.decompressobj(_GZIP_BITS)
        self._start = b""
        """The bytes that decide which kind of deflate follows."""
        self._members = 1

    def inflate(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body stand for, in pieces of at most 256 KiB.

        Raises RefusalError (400) for data that is not valid.
        """
        if self._decoder is None:
            data = self._start + data
            if len(data) < _ZLIB_HEADER_BYTES:
                self._start = data
                return
            self._decoder = zlib.decompressobj(_ZLIB_BITS if _is_zlib(data) else _RAW_BITS)
        is_full = False
        while data or is_full:
            if self._decoder.eof:
                self._next_member()
            try:
                piece = self._decoder.decompress(data, _MAX_PIECE_BYTES)
            except zlib.error as error:
                raise self._invalid(str(error)) from error
            data = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            is_full = len(piece) == _MAX_PIECE_BYTES and not self._decoder.eof  # the decoder may hold more
            if piece:
                yield piece

    def _next_member(self) -> None:
        """Start the next member of gzip data; deflate has only one."""
        self._members += 1
        if self._coding == "deflate" or self._members > _MAX_MEMBERS:
            raise self._invalid("it has bytes after its end")
        self._decoder = zlib.decompressobj(_GZIP_BITS)

    def finish(self) -> None:
        """Raise RefusalError (400) if the body ends too early."""
        if self._start if self._decoder is None else not self._decoder.eof:
            raise self._invalid("it is not complete")

    def _invalid(self, reason: str) -> RefusalError:
        return RefusalError(HTTPStatus.BAD_REQUEST, f"the body is not valid {self._coding} data: {reason}")


def inflater_of(value: str) -> BodyInflater | None:
    """Return what inflates a body with this Content-Encoding; None for `identity`.

    Raises RefusalError (415) for a coding that is none of `CODINGS`.
    """
    coding = value.lower()
    coding = _ALIASES.get(coding, coding)
    if coding not in CODINGS:
        raise RefusalError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content encoding '{value[:100]}' is not supported; use one of {', '.join(CODINGS)}",
            headers={"Accept-Encoding": ", ".join(CODINGS)},
        )
    return None if coding == "identity" else BodyInflater(coding)


def _is_zlib(data: bytes) -> bool:
    """Return True if data begins with a header of the zlib format (RFC 1950, section 2.2)."""
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:_ZLIB_HEADER_BYTES], "big") % 31 == 0
