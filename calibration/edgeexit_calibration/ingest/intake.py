"""Stores batches of received messages: decode, check quotas, commit, acknowledge to the broker, answer the devices."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Final

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import Ack, Audit, Delivery, DeviceAddress, Refusal, Report, parse_up_topic
from edgeexit_calibration.ingest.answers import answers
from edgeexit_calibration.ingest.drops import Drop, DropCounter
from edgeexit_calibration.ingest.outage import OutageLog
from edgeexit_calibration.ingest.quotas import QuotaCheck
from edgeexit_calibration.ingest.store_uplinks import IngestRules, Receipt, Stored, store_uplinks
from edgeexit_calibration.ingest.uplink import RefusedUplink, Uplink, read_uplink
from edgeexit_calibration.store.database import Database, DatabaseError

_log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


class Intake:
    """Stores the messages of a fleet.

    Args:
        database: receives the messages.
        answer: sends an acknowledgement to a device.
        fleet: the fleet.
        rules: which devices and which audits are stored.

    """

    def __init__(
        self,
        database: Database,
        answer: Callable[[DeviceAddress, Ack], object],
        *,
        fleet: str,
        rules: IngestRules,
    ) -> None:
        self._fleet = fleet
        self.drops = DropCounter(fleet)
        """Messages that were not stored. Thread-safe."""
        self._database = database
        self._repeats = LimitedLog(_log)
        self._answer = answer
        self._rules = rules
        self._quotas = QuotaCheck(rules.quotas)
        self._outage = OutageLog("acknowledgements")

    def store(self, deliveries: Sequence[Delivery], stop: threading.Event) -> bool:
        """Commit a batch of uplink messages, then answer the devices.

        After a DatabaseError, it is tried again until it works or `stop` is set. Returns whether it was committed.
        """
        uplinks: list[Uplink] = []
        refused: list[RefusedUplink] = []
        for delivery in deliveries:
            message = self._read(delivery)
            if isinstance(message, Uplink):
                uplinks.append(message)
            elif message is not None:
                refused.append(message)
        while True:
            try:
                receipts = self._write(uplinks)
                self._outage.succeeded()
                break
            except DatabaseError as error:
                self._outage.failed(error)
                if stop.wait(_RETRY_S):
                    return False
        for address, ack in answers(receipts, refused):
            self._answer(address, ack)
        return True

    def drop(self, drop: Drop) -> None:
        """Count a message that is not stored, and log it unless the same was logged recently."""
        self.drops.add(drop)
        where = "a topic that names no device" if drop.address is None else "/".join(drop.address)
        self._repeats.warning(
            (drop.address, drop.cause), "%s: message not stored (%s): %s", where, drop.cause, drop.detail
        )

    def flush_log(self) -> None:
        """Log how often messages were dropped that have not been logged one by one."""
        self._repeats.flush()

    def _read(self, delivery: Delivery) -> Uplink | RefusedUplink | None:
        """Return a message, or None if it is dropped without an answer."""
        address: DeviceAddress | None = None
        try:
            sender, _ = parse_up_topic(delivery.topic)
            if sender.fleet != self._fleet:  # a hostile broker; the database may contain that fleet, too
                self.drop(Drop(None, "unreadable", f"topic '{delivery.topic}' is of another fleet"))
                return None
            address = sender
            exceeded = self._quotas.admits_message(address, len(delivery.payload))
            if exceeded is None:
                message = read_uplink(delivery.topic, delivery.payload, retained=delivery.retain)
                if isinstance(message, RefusedUplink):
                    self.drop(Drop(address, "invalid", message.refusal.reason))
                    return message
                exceeded = self._quotas.admits(address, message.message, len(delivery.payload))
                if exceeded is None:
                    return message
                self.drop(Drop(address, "over quota", exceeded))
                return _later(message, exceeded)
            self.drop(Drop(address, "over quota", exceeded))
        except MessageError as error:
            self.drop(Drop(address, "unreadable", str(error)))
        except Exception as error:  # noqa: BLE001 - an invalid message must not stop the service
            self.drop(Drop(address, "internal error", repr(error)))
        return None

    def _write(self, uplinks: Sequence[Uplink]) -> list[Receipt]:
        """Write a batch and the counts of drops. Raises DatabaseError if the database fails."""
        if not uplinks and not self.drops.has_pending:
            return []
        stored = self._try_write(uplinks)
        if stored is None:  # one of them cannot be written; the others must not suffer
            parts = [self._try_write([uplink]) or _refuse_once(uplink) for uplink in uplinks]
            stored = Stored(
                [receipt for part in parts for receipt in part.receipts],
                [drop for part in parts for drop in part.drops],
            )
        for drop in stored.drops:
            self.drop(drop)
        return stored.receipts

    def _try_write(self, uplinks: Sequence[Uplink]) -> Stored | None:
        """Write messages in one transaction; return None if a message cannot be written."""
        pending = self.drops.take()
        now = datetime.now(timezone.utc)
        try:
            with self._database.writing() as session:
                stored = store_uplinks(session, uplinks, now=now, rules=self._rules)
                pending.write(session, now=now)
                return stored
        except DatabaseError:
            self.drops.put_back(pending)
            raise
        except Exception as error:  # noqa: BLE001 - the broker would deliver the message again forever
            self._repeats.error("write", "a batch cannot be written: %r", error, exc_info=error)
            return None


def _later(uplink: Uplink, exceeded: str) -> RefusedUplink | None:
    """Return the refusal of a message that may be stored tomorrow, so that the device waits; None without a number."""
    message = uplink.message
    if not isinstance(message, Report | Audit):
        return None
    refusal = Refusal(sequence=message.sequence, reason=f"over quota: {exceeded}", final=False)
    return RefusedUplink(uplink.address, message.start, refusal)


def _refuse_once(uplink: Uplink) -> Stored:
    """Return the answer to a message that the database does not take: not final, because the fault may be ours."""
    drop = Drop(uplink.address, "internal error", "the calibrator could not write the message; see its log")
    message = uplink.message
    if not isinstance(message, Report | Audit):
        return Stored([], [drop])
    refusal = Refusal(sequence=message.sequence, reason=drop.detail, final=False)
    return Stored([Receipt(uplink.address, message.start, (), (refusal,))], [drop])
