"""Reads received messages: decodes them, and checks quotas. Needs no database."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from edgeexit.errors import MessageError
from edgeexit.log_text import one_line
from edgeexit.wire import Audit, Delivery, DeviceAddress, Refusal, parse_up_topic
from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.drops import Drop
from edgeexit_calibration.ingest.quotas import QuotaCheck, Quotas
from edgeexit_calibration.ingest.report_head import ReportHead, count_reports
from edgeexit_calibration.ingest.uplink import RefusedUplink, Uplink, read_uplink

_MAX_TOPICS: Final = 100_000


class ReadMessages(NamedTuple):
    """Messages that are to be stored, and messages that are refused whatever the database contains."""

    uplinks: Sequence[Uplink]
    refused: Sequence[RefusedUplink]
    drops: Sequence[Drop]
    """The messages that are not stored, the refused ones included."""

    def shards(self) -> frozenset[str] | None:
        """Return the shards of all devices that sent something; None if the device of a message is not known."""
        if any(drop.address is None for drop in self.drops):
            return None
        shards = {uplink.address.shard for uplink in self.uplinks}
        shards.update(refused.address.shard for refused in self.refused)
        return frozenset(shards.union(drop.address.shard for drop in self.drops if drop.address is not None))

    def of_shards(self, shards: Collection[str]) -> "ReadMessages":
        """Return the messages of the devices of some shards."""
        return ReadMessages(
            [uplink for uplink in self.uplinks if uplink.address.shard in shards],
            [refused for refused in self.refused if refused.address.shard in shards],
            [drop for drop in self.drops if drop.address is None or drop.address.shard in shards],
        )


NOTHING: Final = ReadMessages((), (), ())


class MessageReader:
    """Reads the messages of a fleet. Only one thread may use it.

    Args:
        fleet: the fleet.
        quotas: how much each device may send.

    """

    def __init__(self, fleet: str, quotas: Quotas) -> None:
        self._fleet = fleet
        self._drops: list[Drop] = []
        """Of the messages that are being read."""
        self._quotas = QuotaCheck(quotas)
        self._topics: BoundedCache[str, tuple[DeviceAddress, str]] = BoundedCache(_MAX_TOPICS)

    def read(self, deliveries: Sequence[Delivery]) -> ReadMessages:
        """Decode messages; those that are invalid are refused, or dropped if they have no readable number."""
        uplinks: list[Uplink] = []
        refused: list[RefusedUplink] = []
        self._drops = []
        for delivery in deliveries:
            message = self._read(delivery)
            if isinstance(message, Uplink):
                uplinks.append(message)
            elif message is not None:
                refused.append(message)
        counted = self._count(uplinks, refused)
        return ReadMessages(counted, refused, self._drops)

    def _read(self, delivery: Delivery) -> Uplink | RefusedUplink | None:
        """Return a message, or None if it is dropped without an answer."""
        address: DeviceAddress | None = None
        topic, payload = delivery.topic, delivery.payload
        try:
            parsed = self._topics.get(topic)
            if parsed is None:
                parsed = parse_up_topic(topic)
                if parsed[0].fleet != self._fleet:  # a hostile broker; the database may contain that fleet, too
                    self._drops.append(Drop(None, "unreadable", f"topic '{topic}' is of another fleet"))
                    return None
                self._topics.put(topic, parsed)
            address = parsed[0]
            exceeded = self._quotas.admits_message(address, len(payload))
            if exceeded is None:
                message = read_uplink(topic, payload, retained=delivery.retain, parsed=parsed)
                if isinstance(message, RefusedUplink):
                    self._drops.append(Drop(address, "invalid", message.refusal.reason))
                    return message
                exceeded = self._quotas.admits(address, message.message, len(payload))
                if exceeded is None:
                    return message
                self._drops.append(Drop(address, "over quota", exceeded))
                return _later(message, exceeded)
            self._drops.append(Drop(address, "over quota", exceeded))
        except MessageError as error:
            self._drops.append(Drop(address, "unreadable", str(error)))
        except Exception as error:  # noqa: BLE001 - an invalid message must not stop the service
            self._drops.append(Drop(address, "internal error", repr(error)))
        return None

    def _count(self, uplinks: list[Uplink], refused: list[RefusedUplink]) -> list[Uplink]:
        """Return the messages, reports with their counters as arrays; refuse those whose counters are invalid."""
        places: list[int] = []
        heads: list[ReportHead] = []
        for place, uplink in enumerate(uplinks):
            if isinstance(uplink.message, ReportHead):
                places.append(place)
                heads.append(uplink.message)
        counts, reasons = count_reports(heads)
        for index, one in counts.items():
            place = places[index]
            uplinks[place] = Uplink(uplinks[place].address, heads[index], None, False, one)  # noqa: FBT003
        for index, reason in reasons.items():
            address, head = uplinks[places[index]].address, heads[index]
            self._drops.append(Drop(address, "invalid", reason))
            refused.append(RefusedUplink(address, head.start, Refusal(sequence=head.sequence, reason=one_line(reason))))
        if not reasons:
            return uplinks
        invalid = {places[index] for index in reasons}
        return [uplink for place, uplink in enumerate(uplinks) if place not in invalid]


def _later(uplink: Uplink, exceeded: str) -> RefusedUplink | None:
    """Return the refusal of a message that may be stored tomorrow, so that the device waits; None without a number."""
    message = uplink.message
    if not isinstance(message, ReportHead | Audit):
        return None
    refusal = Refusal(sequence=message.sequence, reason=f"over quota: {exceeded}", final=False)
    return RefusedUplink(uplink.address, message.start, refusal)
