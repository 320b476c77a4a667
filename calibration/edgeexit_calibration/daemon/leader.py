"""What only the leader of a fleet does: check cohorts, change policies, publish, find shards, maintain the database.

It has a thread of its own, and a second one for its presence. It writes under the lease of the leader only: if another
process has taken over meanwhile, e.g. during a long check, nothing is written any more.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Final, Protocol

import msgspec

from edgeexit.errors import EdgeExitError
from edgeexit.limited_log import LimitedLog
from edgeexit.signing import PrivateKey
from edgeexit.wire import (
    BrokerSession,
    CalibratorPresence,
    keys_topic,
    presence_topic,
)
from edgeexit_calibration.daemon.consumers import shard_of
from edgeexit_calibration.daemon.presence import Presence
from edgeexit_calibration.daemon.service_config import ServiceConfig
from edgeexit_calibration.daemon.shard_discovery import ShardDiscovery
from edgeexit_calibration.ingest.outage import OutageLog
from edgeexit_calibration.publishing.heartbeats import Heartbeats, heartbeat_filter
from edgeexit_calibration.publishing.published_key_set import PublishedKeySet
from edgeexit_calibration.publishing.publisher import Publisher, policy_filter
from edgeexit_calibration.recalibrate.cohort_rules import RecalibrationOptions
from edgeexit_calibration.recalibrate.watcher import Watcher
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.leases import LeaseLostError
from edgeexit_calibration.store.maintenance import Maintenance, MaintenanceResult

_log = logging.getLogger(__name__)

_SAVE_S: Final = 1.0
"""Longest time that a stop waits for states to be stored, so that another process soon takes over."""


def own_topics(fleet: str) -> tuple[str, ...]:
    """Return the filters of the topics that the leader publishes on and watches."""
    return policy_filter(fleet), heartbeat_filter(fleet), keys_topic(fleet), presence_topic(fleet)


class Published(Protocol):
    """Something that the leader keeps equal at the broker."""

    def reset(self) -> None:
        """Treat everything as not published."""

    def publish(self, *, now: datetime) -> None:
        """Publish what the broker does not have."""


class Leader:
    """Leads the fleet from `start` until `stop`.

    Args:
        database: whose write transactions fail when another process leads.
        config: fleet, broker, intervals and limits.
        keys: sign the policies and the heartbeats.
        session: must pass its messages to `receive` and call `reconnected`.
        own: announces this calibrator.
        on_superseded: receives the error if a calibrator with another database serves the fleet.

    Attributes:
        presence: of this calibrator.

    """

    def __init__(
        self,
        database: Database,
        config: ServiceConfig,
        keys: Sequence[PrivateKey],
        *,
        session: BrokerSession,
        own: CalibratorPresence,
        on_superseded: Callable[[EdgeExitError], None],
    ) -> None:
        fleet = config.fleet
        self._interval_s = config.check_interval_s
        self._repeats = LimitedLog(_log)
        self._outage = OutageLog("checks of cohorts")
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._reconnected = threading.Event()
        self._has_saved = threading.Event()
        self._watcher = Watcher(database, fleet=fleet, options=_options(config))
        self._publisher = publisher = Publisher(database, session, fleet=fleet, keys=keys)
        heartbeats = Heartbeats(database, session, fleet=fleet, keys=keys, interval_s=config.heartbeat_interval_s)
        self.presence = Presence(session, own, keys=keys, takes_over=config.take_over, on_superseded=on_superseded)
        self._discovery = ShardDiscovery(database, fleet=fleet, on_new=self._wake.set)
        self._published: list[Published] = [publisher, heartbeats]
        self._receivers: dict[str, Callable[[str, bytes], None]] = {
            shard_of(policy_filter(fleet)): publisher.on_message,
            shard_of(heartbeat_filter(fleet)): heartbeats.on_message,
            shard_of(presence_topic(fleet)): self.presence.on_message,
            shard_of(keys_topic(fleet)): _ignore,
        }
        if config.key_set is not None:
            key_set = PublishedKeySet(session, config.key_set, fleet=fleet, keys=keys)
            self._published.insert(0, key_set)
            self._receivers[shard_of(keys_topic(fleet))] = key_set.on_message
        self._has_connected = False
        self._maintenance = Maintenance(database, config.retention)
        self._threads = [
            threading.Thread(target=self._run, name="calibrator-leader"),
            # A check in progress must not delay it.
            threading.Thread(target=self.presence.run, args=(self._stopping,), name="calibrator-presence"),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop to lead; returns when the states of all cohorts are stored, at the latest after a second.

        A check in progress ends in the background. What it finds is not written once the lease has ended.
        """
        self._stopping.set()
        self._wake.set()
        self._has_saved.wait(_SAVE_S)

    def join(self) -> None:
        """Wait until everything has stopped."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._pause_s())  # also before the first check, which a connect wakes
            self._wake.clear()
            self._check()
        with suppress(DatabaseError, LeaseLostError):  # the next leader continues from an earlier state
            self._watcher.save(now=datetime.now(timezone.utc))
        self._has_saved.set()

    def _pause_s(self) -> float:
        """Return the time until the next check: after a connect it is soon, because the first one only reads."""
        postponed_s = self._publisher.postponed_s
        return self._interval_s if postponed_s is None else min(self._interval_s, postponed_s)

    def reconnected(self) -> None:
        """Check soon, and publish again; called in the network thread at every connect."""
        self.presence.reset()
        self._reconnected.set()
        self._wake.set()

    def receive(self, topic: str, payload: bytes) -> bool:
        """Take a message on our own topics, in the network thread; return False for any other one."""
        receive = self._receivers.get(shard_of(topic))
        if receive is None:
            return False
        receive(topic, payload)
        return True

    def find_shard(self, topic: str) -> None:
        """Look whether the topic of a device names a new shard, in the network thread."""
        self._discovery.on_topic(topic)

    def _check(self) -> None:
        """Take every step once; if the database fails in one of them, the others still run."""
        if self._reconnected.is_set():
            self._reconnected.clear()
            self._has_connected = True
            for published in self._published:
                published.reset()
        errors = [error for step in self._steps() if (error := self._try(step))]
        if errors:
            self._outage.failed(errors[0])
        else:
            self._outage.succeeded()
        self._repeats.flush()

    def _steps(self) -> Iterator[Callable[..., None]]:
        """Yield the steps; those that publish not before the next `reset` if a connect came during this check."""
        yield self._discovery.add_new
        yield self._watcher.check
        for published in self._published:
            if self._has_connected and not self._reconnected.is_set():
                yield published.publish
        yield self._maintain

    def _maintain(self, *, now: datetime) -> None:
        """Merge buckets and delete what is too old, for about a second."""
        result = self._maintenance.run(now=now, stop=self._stopping)
        if result is not None and result != MaintenanceResult():
            _log.info("maintained the database: %s", _changes(result))

    def _try(self, step: Callable[..., None]) -> DatabaseError | None:
        if self._stopping.is_set():
            return None
        try:
            step(now=datetime.now(timezone.utc))
        except DatabaseError as error:
            return error
        except LeaseLostError as error:
            self._repeats.warning("lease", "%s", error)
        except Exception as error:  # noqa: BLE001 - the next check may succeed
            text = "the check of the cohorts failed; the next one is in %g s"
            self._repeats.error(type(error).__name__, text, self._interval_s, exc_info=error)
        return None


def _options(config: ServiceConfig) -> RecalibrationOptions:
    return RecalibrationOptions(
        alpha=config.alpha,
        tolerated_devices=config.tolerated_devices,
        max_changes_per_day=config.max_changes_per_day,
        audit_fraction_after_alarm=config.audit_fraction_after_alarm,
        enrolment=config.enrolment,
    )


def _ignore(_topic: str, _payload: bytes) -> None:
    """Stand for the receiver of key sets of a calibrator that publishes none."""


def _changes(result: MaintenanceResult) -> str:
    """Return what was done, e.g. `merged buckets: 12, deleted events: 3`."""
    counts = msgspec.structs.asdict(result)
    return ", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in counts.items() if count)
