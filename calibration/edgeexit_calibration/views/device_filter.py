"""The conditions of a list of devices, as values that a user or a program chooses."""

import msgspec

from edgeexit_calibration.store.cohorts import CohortAddress
from edgeexit_calibration.store.troubles import Trouble


class DeviceFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions that a device must meet; null: any value."""

    shard: str | None = None
    prefix: str = ""
    """The begin of the name of the device, without fleet and shard."""
    cohort: CohortAddress | None = None
    """The cohort in its newest state."""
    revision: int | None = None
    online: bool | None = None
    trouble: Trouble | None = None
    """It has one of these flags."""
