"""The calibrator service: stores messages and acknowledges them after the commit, checks cohorts, publishes policies.

The thread of the broker session only puts messages into a bounded inbox. One thread stores and then acknowledges them.
Another thread checks the cohorts and publishes, so a long refit does not delay acknowledgements. The two threads share
only the database.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Final

import msgspec

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.signing import PrivateKey
from edgeexit.wire import (
    Ack,
    BrokerSession,
    Delivery,
    DeviceAddress,
    SessionOptions,
    down_topic,
    encode,
    keys_topic,
    parse_up_topic,
    uplink_filter,
)
from edgeexit_calibration.daemon.service_config import ServiceConfig
from edgeexit_calibration.ingest.drops import Drop
from edgeexit_calibration.ingest.inbox import Inbox
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.outage import OutageLog
from edgeexit_calibration.ingest.store_uplinks import IngestRules
from edgeexit_calibration.publishing.heartbeats import Heartbeats, heartbeat_filter
from edgeexit_calibration.publishing.published_key_set import PublishedKeySet
from edgeexit_calibration.publishing.publisher import Publisher, policy_filter
from edgeexit_calibration.recalibrate.watcher import Watcher
from edgeexit_calibration.store.database import Database, DatabaseError

_log = logging.getLogger(__name__)

_SHARD_LEVEL: Final = 3
_MAX_BATCH: Final = 500
_MAX_BATCH_S: Final = 0.2
_QUIET_S: Final = 0.01
"""A batch ends after this time without a message, because brokers limit the number of unacknowledged messages."""


class CalibratorService:
    """Stores a fleet's messages, watches its cohorts and publishes their policies, until it is stopped.

    Args:
        database: contains messages and policies; other threads may use it too.
        config: fleet, broker, intervals and limits.
        keys: sign the policies and the heartbeats; as many as the devices require.

    Raises SignatureError if the file of key sets is invalid.

    """

    def __init__(self, database: Database, config: ServiceConfig, keys: Sequence[PrivateKey]) -> None:
        fleet = config.fleet
        self._interval_s = config.check_interval_s
        self._repeats = LimitedLog(_log)
        self._check_outage = OutageLog("checks of cohorts")
        self._inbox = Inbox(max_messages=config.max_unstored, max_bytes=config.max_unstored_bytes)
        self._reconnected = threading.Event()
        self._watcher = Watcher(database, fleet=fleet, min_audits=config.min_audits, alpha=config.alpha)
        own_topics = (policy_filter(fleet), heartbeat_filter(fleet), keys_topic(fleet))
        self._session = BrokerSession(
            config.broker,
            SessionOptions(
                client_id=f"edgeexit-calibrator-{fleet}",
                subscriptions=(uplink_filter(fleet), *own_topics),
                manual_ack=True,
                receive_maximum=config.max_unstored,
            ),
            on_message=self._on_message,
            on_connect=self._reconnected.set,
        )
        rules = IngestRules(enrolment=config.enrolment, quotas=config.quotas)
        self._intake = Intake(database, self._answer, fleet=fleet, rules=rules)
        self._publisher = Publisher(database, self._session, fleet=fleet, keys=keys)
        self._heartbeats = Heartbeats(
            database, self._session, fleet=fleet, keys=keys, interval_s=config.heartbeat_interval_s
        )
        self._published: list[Publisher | Heartbeats | PublishedKeySet] = [self._publisher, self._heartbeats]
        self._receivers: dict[str, Callable[[str, bytes], None]] = {
            _level(policy_filter(fleet)): self._publisher.on_message,
            _level(heartbeat_filter(fleet)): self._heartbeats.on_message,
            _level(keys_topic(fleet)): _ignore,
        }
        if config.key_set is not None:
            key_set = PublishedKeySet(self._session, config.key_set, fleet=fleet, keys=keys)
            self._published.insert(0, key_set)
            self._receivers[_level(keys_topic(fleet))] = key_set.on_message

    @property
    def dropped(self) -> int:
        """Number of messages since the start that were not stored."""
        return self._intake.drops.total

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, then disconnect. Devices send messages that are not committed by then again."""
        checks = threading.Thread(target=self._keep_checking, args=(stop,), name="calibrator-checks")
        checks.start()
        self._session.start()
        try:
            while not stop.is_set():
                batch = self._inbox.take(_MAX_BATCH, wait_s=_MAX_BATCH_S, quiet_s=_QUIET_S)
                self._store(batch, stop)
        finally:
            stop.set()
            self._inbox.close()
            self._reconnected.set()  # ends the wait of the checking thread
            checks.join()
            self._session.stop()

    def _on_message(self, delivery: Delivery) -> None:
        """Put a message into the inbox, in the network thread; wait if it is full.

        Also our own policies and heartbeats, because acknowledgements follow the order of arrival.
        """
        receive = self._receivers.get(_level(delivery.topic))
        if receive is not None:
            receive(delivery.topic, delivery.payload)
            delivery = msgspec.structs.replace(
                delivery, topic="", payload=b""
            )  # its acknowledgement waits for its turn
        elif delivery.qos == 0:  # has no acknowledgement, so it would escape the back-pressure
            self._intake.drop(Drop(_address(delivery.topic), "qos 0", "sent with QoS 0, but QoS 1 is required"))
            return
        self._inbox.put(delivery)

    def _store(self, batch: Sequence[Delivery], stop: threading.Event) -> None:
        """Commit a batch, then acknowledge it to the broker; while the database fails, wait."""
        uplinks = [delivery for delivery in batch if delivery.topic]
        try:
            is_done = self._intake.store(uplinks, stop)
        except Exception as error:  # noqa: BLE001 - no message may end the service; its device sends it again
            self._repeats.error("store", "a batch of %d messages cannot be stored", len(uplinks), exc_info=error)
            is_done = True
        if is_done:
            for delivery in batch:
                delivery.ack()

    def _answer(self, address: DeviceAddress, ack: Ack) -> None:
        # No expiry: rumqttd disconnects MQTT 3.1.1 subscribers when a message has properties.
        try:
            self._session.publish(down_topic(address, "ack"), encode(ack))
        except MessageError as error:  # e.g. larger than the broker's maximum; the device sends its messages again
            self._repeats.warning(address, "%s: %s", "/".join(address), error)

    def _keep_checking(self, stop: threading.Event) -> None:
        """Check every cohort now, after each connection, and once per interval, until `stop` is set."""
        while not stop.is_set():
            self._check()
            self._reconnected.wait(self._interval_s)

    def _check(self) -> None:
        """Check the cohorts and publish; if the database fails in one of these steps, the others still run."""
        if self._reconnected.is_set():
            self._reconnected.clear()
            for published in self._published:
                published.reset()
        steps = (self._watcher.check, *(published.publish for published in self._published))
        errors = [error for step in steps if (error := self._try(step))]
        if errors:
            self._check_outage.failed(errors[0])
        else:
            self._check_outage.succeeded()
        self._intake.flush_log()
        self._repeats.flush()

    def _try(self, step: Callable[..., None]) -> DatabaseError | None:
        try:
            step(now=datetime.now(timezone.utc))
        except DatabaseError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the next check may succeed
            text = "the check of the cohorts failed; the next one is in %g s"
            self._repeats.error(repr(error), text, self._interval_s, exc_info=error)
        return None


def _level(topic: str) -> str:
    """Return the level of a topic in which a shard stands, or a name that no shard can have."""
    levels = topic.split("/")
    return levels[_SHARD_LEVEL] if len(levels) > _SHARD_LEVEL else ""


def _ignore(_topic: str, _payload: bytes) -> None:
    """Stand for the receiver of key sets of a calibrator that publishes none."""


def _address(topic: str) -> DeviceAddress | None:
    try:
        return parse_up_topic(topic)[0]
    except MessageError:
        return None
