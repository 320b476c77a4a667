"""Which requests a web page in a browser on this machine could have sent; they are refused.

A page can send requests to localhost, too. Its browser adds an Origin or Sec-Fetch-Site header. A page whose name its
owner lets resolve to this machine (DNS rebinding) sends that name as Host.
"""

from __future__ import annotations

import ipaddress
import platform
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from edgeexit.agent.endpoint.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_FORM_TYPES: Final = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""Content types that a page of another site can send without asking the server first."""
_OWN_SITES: Final = ("none", "same-origin")
_MAX_CACHED: Final = 64


class HostRule:
    """Accepts a Host header with `localhost`, a literal address, this machine's name or one of `names`.

    A literal address is safe: it does not resolve, so nobody can let it resolve to this machine.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", platform.node().lower(), *(name.lower().rstrip(".") for name in names)}
        self._accepted: set[str] = set()

    def accepts(self, value: str) -> bool:
        """Return True for the value of a Host header that may reach this endpoint."""
        if value in self._accepted:
            return True
        found = _HOST.fullmatch(value)
        if found is None or not self._is_own(found[1]):
            return False
        if len(self._accepted) < _MAX_CACHED:
            self._accepted.add(value)
        return True

    def _is_own(self, host: str) -> bool:
        if host.lower().rstrip(".") in self._names:
            return True
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True


def refuse_web_pages(headers: Mapping[str, str], rule: HostRule | None, *, version: str) -> None:
    """Raise RefusalError for a request that a web page could have sent.

    Args:
        headers: the headers, with names in lower case.
        rule: checks the Host header; None for a Unix domain socket, which no browser can reach.
        version: the HTTP version; HTTP/1.0 does not require a Host header.

    """
    if "origin" in headers or headers.get("sec-fetch-site", "none") not in _OWN_SITES:
        raise RefusalError(HTTPStatus.FORBIDDEN, "requests with an Origin header, which web pages send, are refused")
    if rule is not None:
        host = headers.get("host")
        if host is None:
            if version != "1.0":
                raise RefusalError(HTTPStatus.BAD_REQUEST, "the Host header is missing", close=True)
        elif not rule.accepts(host):
            raise RefusalError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"host '{host[:100]}' is not a name of this endpoint; use localhost or an address, or add the name to "
                "hosts under [endpoint]",
            )
    kind = headers.get("content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() in _FORM_TYPES:
        raise RefusalError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content type '{kind[:100]}', which forms in web pages send, is refused; send application/json",
        )
