"""One process of the calibrator: stores the messages of its shards, and leads the fleet if no other process does.

Threads: one per session at the broker puts messages into a bounded inbox; one decodes them; one stores and then
acknowledges them; one keeps the leases; on the leader, one checks the cohorts and publishes, so a long check does not
delay acknowledgements.
"""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final

from edgeexit.errors import EdgeExitError
from edgeexit.signing import PrivateKey
from edgeexit.wire import BrokerSession, CalibratorPresence
from edgeexit_calibration.daemon.backlog import Backlog
from edgeexit_calibration.daemon.client_ids import probe_client_id
from edgeexit_calibration.daemon.consumer import Consumer
from edgeexit_calibration.daemon.consumers import ALL_SHARDS, Consumers
from edgeexit_calibration.daemon.health import Health, log_health
from edgeexit_calibration.daemon.leader import Leader
from edgeexit_calibration.daemon.presence import check_presence, find_presence
from edgeexit_calibration.daemon.service_config import ServiceConfig
from edgeexit_calibration.daemon.sessions import leader_session, only_session, shard_session
from edgeexit_calibration.daemon.storing import Storing
from edgeexit_calibration.daemon.tenure import Tenure, TenureCallbacks
from edgeexit_calibration.ingest.inbox import Inbox
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.publishing.published_key_set import read_key_sets
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.installation import installation_id
from edgeexit_calibration.store.process_identity import place_of_this_process, shown_place

_log = logging.getLogger(__name__)

_JOIN_S: Final = 10.0


class CalibratorService(TenureCallbacks):
    """Stores a fleet's messages, watches its cohorts and publishes their policies, until it is stopped.

    Args:
        database: contains messages and policies; other threads may use it too.
        config: fleet, broker, intervals and limits.
        keys: sign the policies and the heartbeats; as many as the devices require.

    Raises SignatureError if the file of key sets is invalid.

    """

    def __init__(self, database: Database, config: ServiceConfig, keys: Sequence[PrivateKey]) -> None:
        if config.key_set is not None:
            read_key_sets(config.key_set, fleet=config.fleet)
        self._database = database
        self._config = config
        self._keys = keys
        self._tenure = Tenure(database, config.fleet, ttl_s=config.lease_s)
        self._inbox = Inbox()
        rules = IngestRules(enrolment=config.enrolment, quotas=config.quotas)
        self._backlog = Backlog(config.max_unstored_bytes)
        self._storing = Storing(
            database,
            fleet=config.fleet,
            rules=rules,
            tenure=self._tenure,
            inbox=self._inbox,
            backlog=self._backlog,
        )
        self._consumers = self._storing.consumers = Consumers(self._consumer)
        self._lead_database = database.fenced(self._tenure.check_lead)
        self._leader: Leader | None = None
        self._session: BrokerSession | None = None
        """Of the leader."""
        self._ending: list[threading.Thread] = []
        self._installation = ""
        self._stop = threading.Event()
        self._error: EdgeExitError | None = None

    @property
    def dropped(self) -> int:
        """Number of messages since the start that were not stored."""
        return self._storing.intake.drops.total

    @property
    def connected(self) -> set[str]:
        """The shards that this process receives from the broker now; `consumers.ALL_SHARDS` stands for all."""
        return self._consumers.connected

    @property
    def announced(self) -> bool:
        """Whether this process leads the fleet and has announced it at the broker."""
        leader = self._leader
        return leader is not None and leader.presence.settled.is_set()

    @property
    def health(self) -> Health:
        """The state of this process."""
        owned = self._tenure.shards
        return Health(
            stored=self._storing.stored,
            dropped=self.dropped,
            waiting=self._backlog.messages,
            commit_s=self._storing.commit_s,
            shards="all" if ALL_SHARDS in owned else f"{len(self.connected)} of {len(owned)} connected",
            leads=self._tenure.leads,
        )

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, then disconnect. Devices send messages that are not committed by then again.

        Raises CalibratorRunsError if another process uses the database of SQLite, OtherInstallationError if a
        calibrator with another database serves the fleet, and DatabaseError if the database fails at the start.
        """
        self._stop = stop
        self._installation = installation_id(self._database)
        if not self._database.is_sqlite:
            self._look_for_another_database()
            self._storing.may_store.set()
        threads = [
            threading.Thread(target=self._storing.run, args=(stop,), name="calibrator-storing"),
            threading.Thread(target=self._tenure.run, args=(self, stop), name="calibrator-leases"),
            threading.Thread(target=log_health, args=(lambda: self.health, stop), name="calibrator-health"),
        ]
        try:
            self._tenure.claim(self, stop)
            for thread in threads:
                thread.start()
            stop.wait()
        finally:
            stop.set()
            self._end(threads)
        if self._error is not None:
            raise self._error

    def gained_shard(self, shard: str) -> None:
        """Start to receive a shard."""
        self._consumers.start(shard)

    def lost_shards(self, shards: Collection[str]) -> None:
        """Stop to receive shards."""
        self._consumers.stop(shards)

    def flush(self) -> None:
        """Wait a moment for a batch in progress to be stored."""
        self._storing.flush()

    def gained_lead(self) -> None:
        """Start to lead the fleet."""
        own = CalibratorPresence(
            fleet=self._config.fleet,
            installation=self._installation,
            term=1,
            place=shown_place(place_of_this_process()),
        )
        leaders: list[Leader] = []
        self._session = self._new_session(lambda: leaders[0])
        self._leader = Leader(
            self._lead_database,
            self._config,
            self._keys,
            session=self._session,
            own=own,
            on_superseded=self.failed,
        )
        leaders.append(self._leader)
        if self._database.is_sqlite:  # the consumer starts the session
            self._storing.control = self._leader.receive
            self._storing.may_store = self._leader.presence.settled
        else:
            self._session.start()
        self._leader.start()

    def lost_lead(self) -> None:
        """Stop to lead the fleet."""
        if self._leader is None or self._session is None:
            return
        leader, session = self._leader, self._session
        self._leader = None
        leader.stop()

        def end() -> None:
            leader.join()
            if not self._database.is_sqlite:
                session.stop()

        ending = threading.Thread(target=end, name="calibrator-leader-end")
        ending.start()
        self._ending.append(ending)

    def failed(self, error: EdgeExitError) -> None:
        """End the service; `run` raises the error."""
        self._error = self._error or error
        self._stop.set()

    def _look_for_another_database(self) -> None:
        """Raise OtherInstallationError if a calibrator with another database serves the fleet."""
        if not self._config.take_over:
            client_id = probe_client_id(self._config.fleet, self._installation)
            broker, fleet = self._config.broker, self._config.fleet
            check_presence(find_presence(broker, fleet=fleet, client_id=client_id, keys=self._keys), self._installation)

    def _new_session(self, leader: Callable[[], Leader]) -> BrokerSession:
        """Return the session of the leader; on SQLite it also receives all shards."""
        if not self._database.is_sqlite:
            return leader_session(
                self._config,
                self._installation,
                leader=leader,
                may_connect=lambda: self._tenure.holds_lead and self._leader is leader(),
            )
        return only_session(
            self._config,
            self._installation,
            receive=self._storing.receive,
            on_connect=lambda: leader().reconnected(),
            may_connect=lambda: self._tenure.holds_lead and self._backlog.has_room,
            may_receive=lambda: self._backlog.has_room,
        )

    def _consumer(self, shard: str) -> Consumer:
        if shard == ALL_SHARDS and self._session is not None:
            return Consumer(self._session)
        return Consumer(
            shard_session(
                self._config,
                self._installation,
                shard,
                receive=self._storing.receive,
                may_connect=lambda: self._tenure.holds(shard) and self._backlog.has_room,
                may_receive=lambda: self._backlog.has_room,
            )
        )

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Stop every part; the leases end before the slow ones, so that other processes take over at once."""
        self._tenure.wake()
        self.lost_lead()
        for thread in threads:
            if thread.is_alive():
                thread.join(_JOIN_S)
        self._inbox.close()
        if not self._database.is_sqlite:
            self._consumers.stop(self._consumers.shards)
        try:
            self._tenure.release()
        except DatabaseError as error:
            _log.warning("the leases could not be released, so they end in up to %g s: %s", self._config.lease_s, error)
        self._join_leaders()
        self._consumers.stop(self._consumers.shards)
        self._consumers.join()

    def _join_leaders(self) -> None:
        for thread in self._ending:
            thread.join()
