"""The calibrator service: stores messages and acknowledges them after the commit, checks cohorts, publishes policies.

The thread of the broker session only puts messages into a queue. One thread stores and then acknowledges them. Another
thread checks the cohorts and publishes, so a long refit does not delay acknowledgements. The two threads share only
the database.
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
from edgeexit.wire import Ack, BrokerConfig, BrokerSession, Delivery, SessionOptions, down_topic, encode, uplink_filter
from edgeexit_calibration.database import Database, DatabaseError
from edgeexit_calibration.ingest import Receipt, Uplink, decode_uplink, store_uplinks
from edgeexit_calibration.publish import Publisher, policy_filter
from edgeexit_calibration.watcher import Watcher

_log = logging.getLogger(__name__)

_MAX_BATCH: Final = 500
_MAX_BATCH_S: Final = 0.2
_QUIET_S: Final = 0.01
"""A batch ends after this time without a message, because brokers limit the number of unacknowledged messages."""
_RETRY_S: Final = 1.0
_MAX_LOG_CHARACTERS: Final = 300


class _OutageLog:
    """Logs the beginning and the end of a database outage once each.

    Args:
        activity: what the service pauses during an outage; a part of the log messages.

    """

    def __init__(self, activity: str) -> None:
        self._activity = activity
        self._in_outage = False

    def failed(self, error: DatabaseError) -> None:
        """Log the error if it is the first one of this outage."""
        if not self._in_outage:
            self._in_outage = True
            _log.warning("%s; pausing %s until the database works again", error, self._activity)

    def succeeded(self) -> None:
        """Log the end of an outage, if there was one."""
        if self._in_outage:
            self._in_outage = False
            _log.info("database reachable again; resuming %s", self._activity)


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the calibrator service."""

    fleet: str
    broker: BrokerConfig = BrokerConfig()
    check_interval_s: float = 5.0
    """Time between two checks of all cohorts; each check also publishes new revisions."""
    min_audits: int | None = None
    """Number of audits since the change that a refit waits for; null: twice the minimum that a certificate needs."""
    alpha: float = 0.001
    """While the risk is not exceeded, there are on average at least 1/alpha audits until a false alarm."""


class CalibratorService:
    """Stores a fleet's messages, watches its cohorts and publishes their policies, until it is stopped.

    Args:
        database: contains messages and policies; other threads may use it too.
        config: fleet, broker, intervals and limits.
        key: signs the policies.

    Attributes:
        dropped: number of invalid messages since the start.

    """

    def __init__(self, database: Database, config: ServiceConfig, key: PrivateKey) -> None:
        self.dropped = 0
        self._database = database
        self._interval_s = config.check_interval_s
        self._storage_outage = _OutageLog("acknowledgements")
        self._check_outage = _OutageLog("checks of cohorts")
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._reconnected = threading.Event()
        self._watcher = Watcher(database, fleet=config.fleet, min_audits=config.min_audits, alpha=config.alpha)
        self._session = BrokerSession(
            config.broker,
            SessionOptions(
                client_id=f"edgeexit-calibrator-{config.fleet}",
                subscriptions=(uplink_filter(config.fleet), policy_filter(config.fleet)),
                manual_ack=True,
            ),
            on_message=self._on_message,
            on_connect=self._reconnected.set,
            on_refused=self._on_refused,
        )
        self._publisher = Publisher(database, self._session, fleet=config.fleet, key=key)
        self._policy_topics = policy_filter(config.fleet).rstrip("+/") + "/"

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, then disconnect. Devices send messages that are not committed by then again."""
        checks = threading.Thread(target=self._keep_checking, args=(stop,), name="calibrator-checks")
        checks.start()
        self._session.start()
        try:
            while not stop.is_set():
                batch = self._next_batch(_MAX_BATCH_S)
                if batch:
                    self._ingest(batch, stop)
        finally:
            stop.set()
            self._reconnected.set()  # ends the wait of the checking thread
            checks.join()
            self._session.stop()

    def _on_message(self, delivery: Delivery) -> None:
        """Queue a message, in the network thread; also policies, because acknowledgements follow the arrival order."""
        if self._is_policy(delivery):
            self._publisher.on_policy_message(delivery.topic, delivery.payload)
        self._queue.put(delivery)

    def _on_refused(self, topic: str) -> None:
        self._publisher.on_refused(topic)

    def _is_policy(self, delivery: Delivery) -> bool:
        return delivery.topic.startswith(self._policy_topics)

    def _next_batch(self, wait_s: float) -> list[Delivery]:
        """Return the next batch; it is empty if no message arrives within `wait_s`."""
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
        """Commit a batch, then acknowledge it. After a DatabaseError, retry until it works or `stop` is set."""
        uplink_deliveries = [delivery for delivery in batch if not self._is_policy(delivery)]
        uplinks = [uplink for delivery in uplink_deliveries if (uplink := self._decode(delivery)) is not None]
        receipts: Sequence[Receipt] = ()
        while uplinks:
            try:
                receipts = self._write(uplinks)
                self._storage_outage.succeeded()
                break
            except DatabaseError as error:
                self._storage_outage.failed(error)
                if stop.wait(_RETRY_S):
                    return
        for delivery in batch:
            delivery.ack()
        for receipt in receipts:
            ack = Ack(start=receipt.start, sequences=receipt.sequences)
            # No expiry: rumqttd disconnects MQTT 3.1.1 subscribers when a message has properties.
            self._session.publish(down_topic(receipt.address, "ack"), encode(ack))

    def _decode(self, delivery: Delivery) -> Uplink | None:
        try:
            return decode_uplink(delivery.topic, delivery.payload)
        except Exception as error:  # noqa: BLE001 - an invalid message must not stop the service
            self._drop(delivery.topic, error)
            return None

    def _write(self, uplinks: Sequence[Uplink]) -> list[Receipt]:
        """Write a batch; drop each message that cannot be written. Raises DatabaseError if the database fails."""
        try:
            with self._database.writing() as session:
                return store_uplinks(session, uplinks, now=datetime.now(timezone.utc))
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - the broker would deliver the message again forever
            if len(uplinks) == 1:
                self._drop("/".join(uplinks[0].address), error)
                return []
        return [receipt for uplink in uplinks for receipt in self._write([uplink])]

    def _drop(self, where: str, error: Exception) -> None:
        self.dropped += 1
        text = "".join(character if character.isprintable() else " " for character in f"{where}: {error}")
        _log.warning("dropped invalid message %d: %s", self.dropped, text[:_MAX_LOG_CHARACTERS])

    def _keep_checking(self, stop: threading.Event) -> None:
        """Check every cohort now, after each connection, and once per interval, until `stop` is set."""
        while not stop.is_set():
            self._check()
            self._reconnected.wait(self._interval_s)

    def _check(self) -> None:
        """Check the cohorts and publish; if the database fails in one of these steps, the other one still runs."""
        errors = [error for step in (self._watcher.check, self._publish) if (error := self._try(step))]
        if errors:
            self._check_outage.failed(errors[0])
        else:
            self._check_outage.succeeded()

    def _publish(self, *, now: datetime) -> None:
        if self._reconnected.is_set():
            self._reconnected.clear()
            self._publisher.reset()
        self._publisher.publish(now=now)

    def _try(self, step: Callable[..., None]) -> DatabaseError | None:
        try:
            step(now=datetime.now(timezone.utc))
        except DatabaseError as error:
            return error
        except Exception:  # noqa: BLE001 - the next check may succeed
            _log.exception("the check of the cohorts failed; the next one is in %g s", self._interval_s)
        return None
