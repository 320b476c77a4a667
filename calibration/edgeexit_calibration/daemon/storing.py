"""Stores what arrives: one thread reads batches from the inbox, another commits them and then acknowledges them.

While the database works on a batch, the next one is decoded. No more than one waits between the two threads.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import Delivery, DeviceAddress, parse_up_topic
from edgeexit_calibration.daemon.backlog import Backlog, BatchLimit
from edgeexit_calibration.daemon.consumers import ALL_SHARDS, Consumers, acknowledge, shard_of
from edgeexit_calibration.daemon.tenure import Tenure
from edgeexit_calibration.ingest.drops import Drop
from edgeexit_calibration.ingest.inbox import Inbox
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.message_reader import NOTHING, ReadMessages
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.database import Database

_log = logging.getLogger(__name__)

_MAX_BATCH_S: Final = 0.25
_QUIET_S: Final = 0.01
"""A batch ends after this time without a message, because brokers limit the number of unacknowledged messages."""
_FLUSH_S: Final = 2.0
_RETRY_S: Final = 0.2


class _ReadBatch(NamedTuple):
    """Deliveries, and what was read from them."""

    deliveries: Sequence[Delivery]
    messages: ReadMessages
    shards: frozenset[str] | None
    """Of all deliveries; None: only their topics name them."""


class Storing:
    """Stores what the consumers receive.

    Args:
        database: receives the messages.
        fleet: the fleet.
        rules: which devices and which audits are stored.
        tenure: which shards this process owns.
        inbox: received messages.
        backlog: counts them until they are stored.

    Attributes:
        may_store: set once this calibrator certainly serves the fleet.
        stored: number of messages in committed batches.
        commit_s: seconds that the last batch took.

    """

    def __init__(
        self, database: Database, *, fleet: str, rules: IngestRules, tenure: Tenure, inbox: Inbox, backlog: Backlog
    ) -> None:
        self.may_store = threading.Event()
        self.control: Callable[[str, bytes], bool] = lambda _topic, _payload: False
        """Takes messages on our own topics that arrive in the same session; returns False for others."""
        self.stored = 0
        self.commit_s = 0.0
        self._tenure = tenure
        self._inbox = inbox
        self._backlog = backlog
        self._limit = BatchLimit()
        self._repeats = LimitedLog(_log)
        self._leases: tuple[str, ...] = ()
        """The leases that the batch in progress needs."""
        self._gained = tenure.gained
        self._changed = threading.Condition()
        self._is_busy = False
        self._batches = 0
        self.intake = Intake(database, self._send, fleet=fleet, rules=rules, fence=self._check)
        self.consumers: Consumers | None = None

    def run(self, stop: threading.Event) -> None:
        """Store batches until `stop` is set, but none before `may_store` is set."""
        while not self.may_store.wait(_MAX_BATCH_S) and not stop.is_set():
            pass
        batches: queue.Queue[_ReadBatch] = queue.Queue(maxsize=1)
        reading = threading.Thread(target=self._read, args=(batches, stop), name="calibrator-reading")
        reading.start()
        while not stop.is_set():
            try:
                batch = batches.get(timeout=_MAX_BATCH_S)
            except queue.Empty:
                batch = _ReadBatch((), NOTHING, frozenset())  # counts of drops may have to be written
            self._mark(is_busy=True)
            try:
                while not self._store(batch, stop) and not stop.is_set():
                    pass  # once more, without the shards that were lost
            except Exception as error:  # noqa: BLE001 - no message may end the service; its device sends it again
                self._log_failure(batch.deliveries, error)
                acknowledge(batch.deliveries)
            finally:
                self._backlog.remove(batch.deliveries)
                self._mark(is_busy=False)
        reading.join()

    def flush(self) -> None:
        """Wait until the batch in progress has ended; not for long, because the database may have failed."""
        with self._changed:
            batches = self._batches
            self._changed.wait_for(lambda: not self._is_busy or self._batches != batches, _FLUSH_S)

    def receive(self, deliveries: list[Delivery]) -> None:
        """Put messages into the inbox, in the network thread of their session.

        A session delivers only so many messages before the first of them is acknowledged, which bounds the inbox.
        """
        kept: list[Delivery] = []
        for delivery in deliveries:
            if self.control(delivery.topic, delivery.payload):
                # Acknowledgements follow the order of arrival, so that of this message waits for its turn.
                kept.append(msgspec.structs.replace(delivery, topic="", payload=b""))
            elif delivery.qos == 0:  # has no acknowledgement, so it would escape the back-pressure
                address = _address(delivery.topic)
                self.intake.drops.add(Drop(address, "qos 0", "sent with QoS 0, but QoS 1 is required"))
            else:
                kept.append(delivery)
        self._backlog.add(kept)
        self._inbox.put(kept)

    def _read(self, batches: "queue.Queue[_ReadBatch]", stop: threading.Event) -> None:
        """Read batches from the inbox, in a thread of its own."""
        while not stop.is_set():
            deliveries = self._inbox.take(self._limit.messages, wait_s=_MAX_BATCH_S, quiet_s=_QUIET_S)
            if not deliveries:
                continue
            try:
                messages = self.intake.reader.read([one for one in deliveries if one.topic])
                shards = messages.shards()
            except Exception as error:  # noqa: BLE001 - as when they are stored; they are acknowledged in their turn
                self._log_failure(deliveries, error)
                messages, shards = NOTHING, None
            while not stop.is_set():
                try:
                    batches.put(_ReadBatch(deliveries, messages, shards), timeout=_MAX_BATCH_S)
                    break
                except queue.Full:
                    pass

    def _store(self, batch: _ReadBatch, stop: threading.Event) -> bool:
        """Commit a batch, then acknowledge it to the broker; return False if a lease has ended."""
        owned, messages = self._owned(batch)
        if self._tenure.gained != self._gained:  # another process may have written the rows of the shards since;
            self._gained = self._tenure.gained  # after `_owned`: a shard that is owned has been counted as gained
            self.intake.forget()
        begin = time.monotonic()
        if self.intake.write(messages, stop):
            acknowledge(owned)
            if owned:
                self.stored += len(owned)
                self.commit_s = time.monotonic() - begin
                self._limit.record(len(owned), self.commit_s)
            return True
        self._tenure.wake()  # a lease has ended: renew it, or learn that another process has it
        stop.wait(_RETRY_S)
        return False

    def _owned(self, batch: _ReadBatch) -> tuple[Sequence[Delivery], ReadMessages]:
        """Return the messages of shards that this process owns, and remember which leases they need.

        The others were received before a shard went to another process; the broker delivers them to that one.
        """
        owned = self._tenure.shards
        if ALL_SHARDS in owned:
            self._leases = self._tenure.leases_of(owned)
            return batch.deliveries, batch.messages
        if batch.shards is not None and batch.shards <= owned:
            self._leases = self._tenure.leases_of(batch.shards)
            return batch.deliveries, batch.messages
        kept = [delivery for delivery in batch.deliveries if shard_of(delivery.topic) in owned]
        self._leases = self._tenure.leases_of({shard_of(delivery.topic) for delivery in kept})
        return kept, batch.messages.of_shards(owned)

    def _log_failure(self, deliveries: Sequence[Delivery], error: Exception) -> None:
        self._repeats.error("store", "a batch of %d messages cannot be stored", len(deliveries), exc_info=error)

    def _mark(self, *, is_busy: bool) -> None:
        with self._changed:
            self._is_busy = is_busy
            self._batches += is_busy
            self._changed.notify_all()

    def _check(self, connection: Connection) -> None:
        self._tenure.check(connection, self._leases)

    def _send(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        return self.consumers is not None and self.consumers.send(messages)


def _address(topic: str) -> DeviceAddress | None:
    try:
        return parse_up_topic(topic)[0]
    except MessageError:
        return None
