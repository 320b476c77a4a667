"""Stores batches of received messages: decode, check quotas, commit, and then answer the devices."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Final

from sqlalchemy import Connection

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.log_text import one_line
from edgeexit.wire import Audit, Delivery, DeviceAddress, Refusal, down_topic, encode, parse_up_topic
from edgeexit_calibration.ingest.answers import answers
from edgeexit_calibration.ingest.batch_store import BatchStore
from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.drops import Drop, DropCounter
from edgeexit_calibration.ingest.outage import OutageLog
from edgeexit_calibration.ingest.quotas import QuotaCheck
from edgeexit_calibration.ingest.receipts import Receipt, Stored
from edgeexit_calibration.ingest.report_head import ReportHead, count_reports
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import RefusedUplink, Uplink, read_uplink
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.leases import LeaseLostError

_log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
_MAX_TOPICS: Final = 100_000


class Intake:
    """Stores the messages of a fleet. Only one thread may use it, apart from `drop`.

    Args:
        database: receives the messages.
        send: sends (topic, payload) pairs to devices; they may get lost.
        fleet: the fleet.
        rules: which devices and which audits are stored.
        fence: called in every transaction that writes; raises LeaseLostError if this process may no longer write.

    """

    def __init__(
        self,
        database: Database,
        send: Callable[[Sequence[tuple[str, bytes]]], object],
        *,
        fleet: str,
        rules: IngestRules,
        fence: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self._fleet = fleet
        self.drops = DropCounter(fleet)
        """Messages that were not stored. Thread-safe."""
        self._database = database
        self._repeats = LimitedLog(_log)
        self._send = send
        self._fence = fence
        self._quotas = QuotaCheck(rules.quotas)
        self._outage = OutageLog("acknowledgements")
        self._store = BatchStore(rules)
        self._topics: BoundedCache[str, tuple[DeviceAddress, str]] = BoundedCache(_MAX_TOPICS)

    def forget(self) -> None:
        """Read everything again from the database, because another process may have stored messages of the devices."""
        self._store.forget()

    def store(self, deliveries: Sequence[Delivery], stop: threading.Event) -> bool:
        """Commit a batch of uplink messages, then answer the devices.

        After a DatabaseError, it is tried again until it works or `stop` is set. Returns whether it was committed; if
        not, e.g. because the lease was lost, the broker or the devices send the messages again.
        """
        uplinks, refused = self._read_batch(deliveries)
        while True:
            try:
                stored = self._write(uplinks)
                self._outage.succeeded()
                break
            except DatabaseError as error:
                self._outage.failed(error)
                if stop.wait(_RETRY_S):
                    return False
            except LeaseLostError as error:
                self._repeats.warning("lease", "%d messages not stored: %s", len(uplinks), error)
                return False
        for drop in stored.drops:
            self.drop(drop)
        messages = [(down_topic(address, "ack"), encode(ack)) for address, ack in answers(stored.receipts, refused)]
        if messages:
            self._send(messages)
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

    def _read_batch(self, deliveries: Sequence[Delivery]) -> tuple[list[Uplink], list[RefusedUplink]]:
        """Decode messages; those that are invalid are refused, or dropped if they have no readable number."""
        uplinks: list[Uplink] = []
        refused: list[RefusedUplink] = []
        for delivery in deliveries:
            message = self._read(delivery)
            if isinstance(message, Uplink):
                uplinks.append(message)
            elif message is not None:
                refused.append(message)
        return self._count(uplinks, refused), refused

    def _read(self, delivery: Delivery) -> Uplink | RefusedUplink | None:
        """Return a message, or None if it is dropped without an answer."""
        address: DeviceAddress | None = None
        topic, payload = delivery.topic, delivery.payload
        try:
            parsed = self._topics.get(topic)
            if parsed is None:
                parsed = parse_up_topic(topic)
                if parsed[0].fleet != self._fleet:  # a hostile broker; the database may contain that fleet, too
                    self.drop(Drop(None, "unreadable", f"topic '{topic}' is of another fleet"))
                    return None
                self._topics.put(topic, parsed)
            address = parsed[0]
            exceeded = self._quotas.admits_message(address, len(payload))
            if exceeded is None:
                message = read_uplink(topic, payload, retained=delivery.retain, parsed=parsed)
                if isinstance(message, RefusedUplink):
                    self.drop(Drop(address, "invalid", message.refusal.reason))
                    return message
                exceeded = self._quotas.admits(address, message.message, len(payload))
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
            self.drop(Drop(address, "invalid", reason))
            refused.append(RefusedUplink(address, head.start, Refusal(sequence=head.sequence, reason=one_line(reason))))
        if not reasons:
            return uplinks
        invalid = {places[index] for index in reasons}
        return [uplink for place, uplink in enumerate(uplinks) if place not in invalid]

    def _write(self, uplinks: Sequence[Uplink]) -> Stored:
        """Write a batch and the counts of drops. Raises DatabaseError if the database fails, and LeaseLostError.

        If it cannot be written, each half is tried: one message must not hurt the others.
        """
        if not uplinks and not self.drops.has_pending:
            return Stored([], [])
        stored = self._try_write(uplinks)
        if stored is not None:
            return stored
        if len(uplinks) <= 1:
            return _refuse_once(uplinks)
        middle = len(uplinks) // 2
        first, second = self._write(uplinks[:middle]), self._write(uplinks[middle:])
        return Stored(first.receipts + second.receipts, first.drops + second.drops)

    def _try_write(self, uplinks: Sequence[Uplink]) -> Stored | None:
        """Write messages in one transaction; return None if a message cannot be written."""
        pending = self.drops.take()
        now = datetime.now(timezone.utc)
        stored: Stored | None = None
        try:
            with self._database.writing() as session:
                self._fence(session.connection())
                stored = self._store.store(session, uplinks, now=now)
                pending.write(session, now=now)
        except (DatabaseError, LeaseLostError):
            self._store.forget()
            self.drops.put_back(pending)
            raise
        except Exception as error:  # noqa: BLE001 - the broker would deliver the message again forever
            self._store.forget()
            if stored is None:  # otherwise it is the counts that cannot be written
                self.drops.put_back(pending)
            self._repeats.error("write", "a batch cannot be written: %r", error, exc_info=error)
            return None
        return stored


def _later(uplink: Uplink, exceeded: str) -> RefusedUplink | None:
    """Return the refusal of a message that may be stored tomorrow, so that the device waits; None without a number."""
    message = uplink.message
    if not isinstance(message, ReportHead | Audit):
        return None
    refusal = Refusal(sequence=message.sequence, reason=f"over quota: {exceeded}", final=False)
    return RefusedUplink(uplink.address, message.start, refusal)


def _refuse_once(uplinks: Sequence[Uplink]) -> Stored:
    """Return the answer to a message that the database does not take: not final, because the fault may be ours."""
    stored = Stored([], [])
    for address, message, *_ in uplinks:
        drop = Drop(address, "internal error", "the calibrator could not write the message; see its log")
        stored.drops.append(drop)
        if isinstance(message, ReportHead | Audit):
            refusal = Refusal(sequence=message.sequence, reason=drop.detail, final=False)
            stored.receipts.append(Receipt(address, message.start, (), (refusal,)))
    return stored
