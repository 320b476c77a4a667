"""Publishes a signed, retained heartbeat per cohort, by which devices notice that a broker withholds policies.

A heartbeat names the newest revision and has a counter that never decreases: at least the seconds since 1970, and above
the counter in the database and the one at the broker. So neither a clock that is set back nor a lost database repeats a
counter.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import select

from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import HEARTBEAT_TYPE, BrokerSession, Heartbeat, encode, heartbeat_topic
from edgeexit_calibration.publishing.retained import RetainedTopics
from edgeexit_calibration.publishing.signed_revisions import RevisionRecorder, SignedRevision, read_heartbeat
from edgeexit_calibration.publishing.unverified_messages import UnverifiedMessages
from edgeexit_calibration.store.cohorts import CohortAddress, current_revision, registered_cohorts
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import RegistrationRow

_MAX_COUNTER: Final = 2**53
"""No clock and no restart leads to a higher counter, but a thief of a policy key can sign one.

To follow it would exhaust the numbers of the database, and so end the heartbeats of all cohorts."""


def heartbeat_filter(fleet: str) -> str:
    """Return the topic filter of the heartbeats of all cohorts of a fleet."""
    return heartbeat_topic(fleet, "+", "+")


class _Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The newest heartbeat of a cohort."""

    revision: int
    counter: int
    envelope: bytes
    until_s: float
    """Monotonic seconds when the next one is due."""


class Heartbeats:
    """Publishes the heartbeats of a fleet.

    Call `publish` and `reset` in one thread; `on_message` may be called in another one.

    Args:
        database: contains the policies and the counters.
        session: connection to the broker. It must pass messages on `heartbeat_filter` to `on_message`.
        fleet: the fleet.
        keys: sign the heartbeats; the keys that sign the policies.
        interval_s: time between two heartbeats of a cohort.
        clock: returns monotonic seconds.

    """

    def __init__(
        self,
        database: Database,
        session: BrokerSession,
        *,
        fleet: str,
        keys: Sequence[PrivateKey],
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._session = session
        self._fleet = fleet
        self._keys = keys
        self._interval_s = interval_s
        self._clock = clock
        self._topics = RetainedTopics(session, what="heartbeat")
        self._public = [key.public_key() for key in keys]
        self._beats: dict[CohortAddress, _Beat] = {}
        self._received = UnverifiedMessages()
        self._recorder = RevisionRecorder(database)
        self._seen: dict[CohortAddress, int] = {}
        """Cohort -> highest counter at the broker that one of our keys signed."""

    def reset(self) -> None:
        """Treat every heartbeat as not published, because the broker may have lost its retained messages."""
        self._topics.reset()

    def on_message(self, topic: str, payload: bytes) -> None:
        """Compare a message on a heartbeat topic with the published one."""
        if not self._topics.on_message(topic, payload):
            self._received.put(topic, payload)

    def publish(self, *, now: datetime) -> None:
        """Read what has arrived, and publish what is due: at a new revision, and after `interval_s`.

        Raises DatabaseError.
        """
        self._read_received()
        if not self._session.connected:
            return
        with self._database.reading() as session:
            revisions = {
                address: (cohort_id, row.revision)
                for cohort_id, address in registered_cohorts(session, self._fleet)
                if (row := current_revision(session, cohort_id)) is not None
            }
        due = {address: found for address, found in revisions.items() if self._needs_beat(address, found[1])}
        if due:
            self._beats.update(self._new_beats(due, now))
        for address in revisions:
            beat, topic = self._beats[address], heartbeat_topic(*address)
            if self._topics.is_due(topic, beat.counter) and not self._topics.send(
                topic, beat.counter, beat.envelope, now=now
            ):
                return

    def _needs_beat(self, address: CohortAddress, revision: int) -> bool:
        beat = self._beats.get(address)
        return (
            beat is None
            or beat.revision != revision
            or self._clock() >= beat.until_s
            or self._seen.get(address, 0) > beat.counter
        )

    def _read_received(self) -> None:
        """Remember counters and revisions that our keys have signed."""
        for topic, payload in self._received.waiting():
            heartbeat = read_heartbeat(topic, payload, fleet=self._fleet, keys=self._public)
            if heartbeat is None:
                continue
            address = CohortAddress(heartbeat.fleet, heartbeat.bundle, heartbeat.cohort)
            self._recorder.record(SignedRevision(address, heartbeat.revision, None))
            if heartbeat.counter <= _MAX_COUNTER:
                self._seen[address] = max(heartbeat.counter, self._seen.get(address, 0))

    def _new_beats(self, due: dict[CohortAddress, tuple[int, int]], now: datetime) -> dict[CohortAddress, _Beat]:
        """Return new heartbeats; their counters are committed before they are published."""
        beats: dict[CohortAddress, _Beat] = {}
        ids = [cohort_id for cohort_id, _ in due.values()]
        with self._database.writing() as session:
            query = (
                select(RegistrationRow).where(RegistrationRow.cohort_id.in_(ids)).order_by(RegistrationRow.cohort_id)
            )
            registrations = {row.cohort_id: row for row in session.scalars(query.with_for_update())}
            for address, (cohort_id, revision) in due.items():
                registration = registrations[cohort_id]
                known = max(registration.heartbeat, self._seen.get(address, 0))
                registration.heartbeat = max(known + 1, int(now.timestamp()))
                heartbeat = Heartbeat(
                    fleet=address.fleet,
                    bundle=address.bundle,
                    cohort=address.cohort,
                    revision=revision,
                    counter=registration.heartbeat,
                )
                beats[address] = _Beat(
                    revision=revision,
                    counter=heartbeat.counter,
                    envelope=sign(encode(heartbeat), payload_type=HEARTBEAT_TYPE, keys=self._keys),
                    until_s=self._clock() + self._interval_s,
                )
        return beats
