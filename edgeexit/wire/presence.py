"""The retained message by which the calibrator of a fleet shows that it runs, and with which database."""

from typing import Final

import msgspec

from edgeexit.policies.document import Name, Revision
from edgeexit.wire.messages import Reason, StartId

PRESENCE_TYPE: Final = "application/vnd.edgeexit.calibrator+json"
"""Type of the signed envelope of a `CalibratorPresence`."""


class CalibratorPresence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calibrator serves a fleet. Devices do not read it."""

    fleet: Name
    installation: StartId
    """Names the database. Processes that share a database share this name."""
    term: Revision
    """Of two calibrators with different databases, the one with the higher term serves the fleet."""
    place: Reason = ""
    """Host and process id, and since when it runs; only for people."""
