"""The outcome of a batch of messages: what to acknowledge, what to refuse, what was not stored."""

from typing import NamedTuple

from edgeexit.wire import DeviceAddress, Refusal
from edgeexit_calibration.ingest.drops import Drop


class Receipt(NamedTuple):
    """The sequence numbers of a device's messages to acknowledge after the commit, duplicates included."""

    address: DeviceAddress
    start: str
    sequences: tuple[int, ...]
    refused: tuple[Refusal, ...] = ()


class Stored(NamedTuple):
    """The outcome of a batch: one receipt per device and start, and what was not stored."""

    receipts: list[Receipt]
    drops: list[Drop]
