"""Reads spans of time from options, e.g. `--last 24h`."""

import re
from datetime import timedelta
from typing import Final

from edgeexit.errors import ConfigError

_SPAN: Final = re.compile(r"(?P<number>\d{1,6})(?P<unit>[mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span_of(option: str, text: str) -> timedelta:
    """Return the span that an option names, e.g. `24h`. Raises ConfigError."""
    match = _SPAN.fullmatch(text)
    if match is None or int(match["number"]) == 0:
        raise ConfigError(f"{option} '{text}' is no span of time; write e.g. 30m, 24h, 7d or 4w")
    return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
