"""Builds the acknowledgements of a batch: one or more per device and start, each within the limits of a message."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from edgeexit.log_text import one_line
from edgeexit.wire import MAX_ACKED, MAX_REFUSED, Ack, DeviceAddress, Refusal
from edgeexit_calibration.ingest.receipts import Receipt
from edgeexit_calibration.ingest.uplink import RefusedUplink


class Answer(NamedTuple):
    """An acknowledgement and the device that it is for."""

    address: DeviceAddress
    ack: Ack


def answers(receipts: Sequence[Receipt], refusals: Sequence[RefusedUplink]) -> Iterator[Answer]:
    """Yield the acknowledgements of stored messages, and the refusals of others.

    A reason has at most 300 characters, so `MAX_REFUSED` refusals are smaller than `MAX_BYTES`, also as JSON in which
    every character is escaped.
    """
    refused: dict[tuple[DeviceAddress, str], dict[int, Refusal]] = {}
    for receipt in receipts:
        for refusal in receipt.refused:
            refused.setdefault((receipt.address, receipt.start), {})[refusal.sequence] = refusal
    for address, start, refusal in refusals:
        refused.setdefault((address, start), {})[refusal.sequence] = refusal
    for receipt in receipts:
        for first in range(0, len(receipt.sequences), MAX_ACKED):
            yield Answer(
                receipt.address, Ack(start=receipt.start, sequences=receipt.sequences[first : first + MAX_ACKED])
            )
    for (address, start), by_sequence in refused.items():
        bounded = [
            msgspec.structs.replace(refusal, reason=one_line(refusal.reason)) for refusal in by_sequence.values()
        ]
        for first in range(0, len(bounded), MAX_REFUSED):
            yield Answer(address, Ack(start=start, refused=tuple(bounded[first : first + MAX_REFUSED])))
