"""The calibrator's loop: messages into the database, acknowledged once committed; policies out of it.

The broker session's thread only puts messages into a queue. One thread takes them in, so what is acknowledged is
always committed; another checks the cohorts and publishes, so a refit that takes long holds up no acknowledgement.
They share the database and nothing else.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Final

import msgspec

from edgeexit.signing import PrivateKey
from edgeexit.wire import Ack, BrokerConfig, BrokerSession, Delivery, down_topic, encode, uplink_filter
from edgeexit_calibration.database import Database, DatabaseError
from edgeexit_calibration.ingest import Receipt, Uplink, read_uplink, store
from edgeexit_calibration.publish import Publisher, policy_filter
from edgeexit_calibration.watcher import Watcher

_log = logging.getLogger(__name__)

_MAX_BATCH: Final = 500
_MAX_BATCH_S: Final = 0.2
_QUIET_S: Final = 0.01
"""A batch ends early when nothing came for so long: brokers send only so many unacknowledged messages."""
_RETRY_S: Final = 1.0
_MAX_REASON: Final = 300


class _Outage:
    """Tells once that the database does not work, and once that it does again."""

    def __init__(self, meanwhile: str, afterwards: str) -> None:
        self._meanwhile = meanwhile
        self._afterwards = afterwards
        self._is_told = False

    def goes_on(self, error: DatabaseError) -> None:
        """Tell the error, the first time."""
        if not self._is_told:
            self._is_told = True
            _log.warning("%s; %s until it works again", error, self._meanwhile)

    def is_over(self) -> None:
        """Tell that it works, where it did not."""
        if self._is_told:
            self._is_told = False
            _log.info("the database works again: %s", self._afterwards)


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to run the calibrator."""

    fleet: str
    broker: BrokerConfig = BrokerConfig()
    check_interval_s: float = 5.0
    """How often every cohort is looked at, and new revisions are published."""
    min_audits: int | None = None
    """Audits since a change that a refit waits for; null: twice what a certificate needs."""
    alpha: float = 0.001
    """At most one false alarm in 1/alpha audits while the risk holds."""


class CalibratorService:
    """Ingests a fleet's messages, watches its cohorts and publishes their policies, until told to stop.

    Args:
        database: owns messages and policies; may be shared with other threads.
        config: which fleet, over which broker.
        key: signs the policies.

    Attributes:
        dropped: messages that broke the wire contract, since the start.

    """

    def __init__(self, database: Database, config: ServiceConfig, key: PrivateKey) -> None:
        self.dropped = 0
        self._database = database
        self._interval_s = config.check_interval_s
        self._uplink_outage = _Outage("nothing is acknowledged", "messages are acknowledged")
        self._check_outage = _Outage("no cohort is checked", "cohorts are checked")
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._connected_anew = threading.Event()
        self._watcher = Watcher(database, fleet=config.fleet, min_audits=config.min_audits, alpha=config.alpha)
        self._session = BrokerSession(
            config.broker,
            client_id=f"edgeexit-calibrator-{config.fleet}",
            subscriptions=[uplink_filter(config.fleet), policy_filter(config.fleet)],
            on_message=self._arrived,
            on_connect=self._connected_anew.set,
            manual_ack=True,
            on_refused=self._refused,
        )
        self._publisher = Publisher(database, self._session, fleet=config.fleet, key=key)
        self._policy_topics = policy_filter(config.fleet).rstrip("+/") + "/"

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then disconnect. What is not committed by then is sent again by the devices."""
        checks = threading.Thread(target=self._keep_checking, args=(stop,), name="calibrator-checks")
        checks.start()
        self._session.start()
        try:
            while not stop.is_set():
                batch = self._take(_MAX_BATCH_S)
                if batch:
                    self._ingest(batch, stop)
        finally:
            stop.set()
            self._connected_anew.set()  # wakes the other thread
            checks.join()
            self._session.stop()

    def _arrived(self, delivery: Delivery) -> None:
        """Take a message in the network thread; all are queued, because brokers want acknowledgements in order."""
        if self._is_policy(delivery):
            self._publisher.notice(delivery.topic, delivery.payload)
        self._queue.put(delivery)

    def _refused(self, topic: str) -> None:
        self._publisher.refused(topic)

    def _is_policy(self, delivery: Delivery) -> bool:
        return delivery.topic.startswith(self._policy_topics)

    def _take(self, wait_s: float) -> list[Delivery]:
        """Return the next batch, empty when nothing came in `wait_s`."""
        batch: list[Delivery] = []
        try:
            batch.append(self._queue.get(timeout=wait_s))
            deadline = time.monotonic() + _MAX_BATCH_S
            while len(batch) < _MAX_BATCH and time.monotonic() < deadline:
                batch.append(self._queue.get(timeout=_QUIET_S))
        except queue.Empty:
            pass
        return batch

    def _ingest(self, batch: Sequence[Delivery], stop: threading.Event) -> None:
        """Commit a batch, then acknowledge it; while the database does not take it, keep it and try again."""
        sent_up = [delivery for delivery in batch if not self._is_policy(delivery)]
        uplinks = [uplink for delivery in sent_up if (uplink := self._read(delivery)) is not None]
        receipts: Sequence[Receipt] = ()
        while uplinks:
            try:
                receipts = self._store(uplinks)
                self._uplink_outage.is_over()
                break
            except DatabaseError as error:
                self._uplink_outage.goes_on(error)
                if stop.wait(_RETRY_S):
                    return
        for delivery in batch:
            delivery.ack()
        for receipt in receipts:
            ack = Ack(outbox=receipt.outbox, sequences=receipt.sequences)
            # Without an expiry: rumqttd drops 3.1.1 subscribers that are sent a message with properties.
            self._session.publish(down_topic(receipt.address, "ack"), encode(ack))

    def _read(self, delivery: Delivery) -> Uplink | None:
        try:
            return read_uplink(delivery.topic, delivery.payload)
        except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one is taken in
            self._drop(delivery.topic, error)
            return None

    def _store(self, uplinks: Sequence[Uplink]) -> list[Receipt]:
        """Write a batch; where one message cannot be written at all, write the others. Raises DatabaseError."""
        try:
            with self._database.writing() as session:
                return store(session, uplinks, now=datetime.now(timezone.utc))
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - the broker would send the message again and again
            if len(uplinks) == 1:
                self._drop("/".join(uplinks[0].address), error)
                return []
        return [receipt for uplink in uplinks for receipt in self._store([uplink])]

    def _drop(self, where: str, error: Exception) -> None:
        self.dropped += 1
        what = "".join(character if character.isprintable() else " " for character in f"{where}: {error}")
        _log.warning("message %d dropped: %s", self.dropped, what[:_MAX_REASON])

    def _keep_checking(self, stop: threading.Event) -> None:
        """Check every cohort now, again at every new connection, and every so often."""
        while not stop.is_set():
            self._check()
            self._connected_anew.wait(self._interval_s)

    def _check(self) -> None:
        """Check and publish; where the database does not let one of them, the other is done all the same."""
        errors = [error for step in (self._watcher.check, self._publish) if (error := self._try(step))]
        if errors:
            self._check_outage.goes_on(errors[0])
        else:
            self._check_outage.is_over()

    def _publish(self, *, now: datetime) -> None:
        if self._connected_anew.is_set():
            self._connected_anew.clear()
            self._publisher.forget()
        self._publisher.publish(now=now)

    def _try(self, step: Callable[..., None]) -> DatabaseError | None:
        try:
            step(now=datetime.now(timezone.utc))
        except DatabaseError as error:
            return error
        except Exception:  # noqa: BLE001 - the next check may do better
            _log.exception("the check of the cohorts failed; checking again in %g s", self._interval_s)
        return None
