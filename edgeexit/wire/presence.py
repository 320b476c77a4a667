"""The retained message by which the calibrator of a fleet shows that it runs, and with which database."""

from typing import Annotated, Final

import msgspec

PRESENCE_TYPE: Final = "application/vnd.edgeexit.calibrator+json"
"""Type of the signed envelope of a `CalibratorPresence`."""

_MAX_TERM: Final = 2**53


class CalibratorPresence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calibrator serves a fleet. Devices do not read it."""

    fleet: str
    installation: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
    """Names the database. Processes that share a database share this name."""
    term: Annotated[int, msgspec.Meta(ge=1, le=_MAX_TERM)]
    """Of two calibrators with different databases, the one with the higher term serves the fleet."""
    place: Annotated[str, msgspec.Meta(max_length=300)] = ""
    """Host and process id, and since when it runs; only for people."""
