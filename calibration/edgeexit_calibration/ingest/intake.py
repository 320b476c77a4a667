"""Stores batches of messages that were read: commits them, and then answers the devices."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Final

from sqlalchemy import Connection

from edgeexit.limited_log import LimitedLog
from edgeexit.wire import Audit, Delivery, Refusal, down_topic, encode
from edgeexit_calibration.ingest.answers import answers
from edgeexit_calibration.ingest.batch_store import BatchStore
from edgeexit_calibration.ingest.drops import Drop, DropCounter
from edgeexit_calibration.ingest.message_reader import MessageReader, ReadMessages
from edgeexit_calibration.ingest.outage import OutageLog
from edgeexit_calibration.ingest.receipts import Receipt, Stored
from edgeexit_calibration.ingest.report_head import ReportHead
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.leases import LeaseLostError

_log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


class Intake:
    """Stores the messages of a fleet. One thread may use `reader` while another one uses the rest.

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
        self.drops = DropCounter(fleet)
        """Messages that were not stored. Thread-safe."""
        self.reader = MessageReader(fleet, rules.quotas)
        self._database = database
        self._repeats = LimitedLog(_log)
        self._send = send
        self._fence = fence
        self._outage = OutageLog("acknowledgements")
        self._store = BatchStore(rules)

    def forget(self) -> None:
        """Read everything again from the database, because another process may have stored messages of the devices."""
        self._store.forget()

    def store(self, deliveries: Sequence[Delivery], stop: threading.Event) -> bool:
        """Read and write messages; see `write`."""
        return self.write(self.reader.read(deliveries), stop)

    def write(self, messages: ReadMessages, stop: threading.Event) -> bool:
        """Commit a batch, then answer the devices.

        After a DatabaseError, it is tried again until it works or `stop` is set. Returns whether it was committed; if
        not, e.g. because the lease was lost, it may be written again, or the broker or the devices send the messages
        again.
        """
        uplinks, refused, drops = messages
        while True:
            try:
                stored = self._commit(uplinks)
                self._outage.succeeded()
                break
            except DatabaseError as error:
                self._outage.failed(error)
                if stop.wait(_RETRY_S):
                    return False
            except LeaseLostError as error:
                self._repeats.warning("lease", "%d messages not stored: %s", len(uplinks), error)
                return False
        for drop in (*drops, *stored.drops):
            self.drops.add(drop)
        answered = [(down_topic(address, "ack"), encode(ack)) for address, ack in answers(stored.receipts, refused)]
        if answered:
            self._send(answered)
        return True

    def _commit(self, uplinks: Sequence[Uplink]) -> Stored:
        """Write a batch and the counts of drops. Raises DatabaseError if the database fails, and LeaseLostError.

        If it cannot be written, each half is tried: one message must not hurt the others.
        """
        if not uplinks and not self.drops.has_pending:
            return Stored([], [])
        stored = self._try_commit(uplinks)
        if stored is not None:
            return stored
        if len(uplinks) <= 1:
            return _refuse_once(uplinks)
        middle = len(uplinks) // 2
        first, second = self._commit(uplinks[:middle]), self._commit(uplinks[middle:])
        return Stored(first.receipts + second.receipts, first.drops + second.drops)

    def _try_commit(self, uplinks: Sequence[Uplink]) -> Stored | None:
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
