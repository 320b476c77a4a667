"""The storing thread: takes batches from the inbox, commits them under a fence, then acknowledges them."""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import Delivery, DeviceAddress, parse_up_topic
from edgeexit_calibration.daemon.consumers import ALL_SHARDS, Consumers, shard_of
from edgeexit_calibration.daemon.tenure import Tenure
from edgeexit_calibration.ingest.drops import Drop
from edgeexit_calibration.ingest.inbox import Inbox
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.database import Database

_log = logging.getLogger(__name__)

_MAX_BATCH: Final = 500
_MAX_BATCH_S: Final = 0.2
_QUIET_S: Final = 0.01
"""A batch ends after this time without a message, because brokers limit the number of unacknowledged messages."""


class Storing:
    """Stores what the consumers receive.

    Args:
        database: receives the messages.
        fleet: the fleet.
        rules: which devices and which audits are stored.
        tenure: which shards this process owns.
        inbox: received messages.

    Attributes:
        stored: number of messages in committed batches.
        commit_s: seconds that the last batch took.

    """

    def __init__(self, database: Database, *, fleet: str, rules: IngestRules, tenure: Tenure, inbox: Inbox) -> None:
        self.stored = 0
        self.commit_s = 0.0
        self._tenure = tenure
        self._inbox = inbox
        self._repeats = LimitedLog(_log)
        self._leases: tuple[str, ...] = ()
        """The leases that the batch in progress needs."""
        self._gained = tenure.gained
        self.intake = Intake(database, self._send, fleet=fleet, rules=rules, fence=self._check)
        self.consumers: Consumers | None = None

    def run(self, stop: threading.Event) -> None:
        """Store batches until `stop` is set."""
        while not stop.is_set():
            batch = self._inbox.take(_MAX_BATCH, wait_s=_MAX_BATCH_S, quiet_s=_QUIET_S)
            try:
                self._store(batch, stop)
            except Exception as error:  # noqa: BLE001 - no message may end the service; its device sends it again
                self._repeats.error("store", "a batch of %d messages cannot be stored", len(batch), exc_info=error)
                self._acknowledge(batch)

    def receive(self, deliveries: list[Delivery]) -> None:
        """Put messages into the inbox, in the network thread of their session; wait while it is full."""
        for delivery in deliveries:
            if delivery.qos == 0:  # has no acknowledgement, so it would escape the back-pressure
                address = _address(delivery.topic)
                self.intake.drop(Drop(address, "qos 0", "sent with QoS 0, but QoS 1 is required"))
            else:
                self._inbox.put(delivery)

    def _store(self, batch: Sequence[Delivery], stop: threading.Event) -> None:
        """Commit a batch, then acknowledge it to the broker; while the database fails, wait."""
        if self._tenure.gained != self._gained:  # another process may have written the rows of the shards since
            self._gained = self._tenure.gained
            self.intake.forget()
        batch = self._owned(batch)
        begin = time.monotonic()
        if self.intake.store(batch, stop):
            self._acknowledge(batch)
            self.stored += len(batch)
            self.commit_s = time.monotonic() - begin
        elif not stop.is_set():  # a lease has ended: what we may still store is delivered again by the broker
            self._tenure.wake()
            if self.consumers is not None:
                self.consumers.restart()

    def _owned(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the messages of shards that this process owns, and remember which leases they need.

        The others were received before a shard went to another process; the broker delivers them to that one.
        """
        owned = self._tenure.shards
        if ALL_SHARDS in owned:
            self._leases = self._tenure.leases_of(owned)
            return batch
        kept = [delivery for delivery in batch if shard_of(delivery.topic) in owned]
        self._leases = self._tenure.leases_of({shard_of(delivery.topic) for delivery in kept})
        return kept

    def _check(self, connection: Connection) -> None:
        self._tenure.check(connection, self._leases)

    def _acknowledge(self, batch: Sequence[Delivery]) -> None:
        if self.consumers is not None:
            self.consumers.acknowledge(batch)

    def _send(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        return self.consumers is not None and self.consumers.send(messages)


def _address(topic: str) -> DeviceAddress | None:
    try:
        return parse_up_topic(topic)[0]
    except MessageError:
        return None
