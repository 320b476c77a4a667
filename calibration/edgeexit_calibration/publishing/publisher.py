"""Publishes the current policies as signed, retained messages: after each connection, and after each replacement.

It also reads the policies that the broker has: numbers that our key has signed, but this database not issued, are used.
"""

import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, key_id, sign
from edgeexit.wire import BrokerSession, policy_topic
from edgeexit_calibration.publishing.retained import RetainedTopics
from edgeexit_calibration.publishing.signed_revisions import RevisionRecorder, read_policy
from edgeexit_calibration.publishing.unverified_messages import UnverifiedMessages
from edgeexit_calibration.store.cohorts import (
    CALIBRATOR,
    CohortAddress,
    add_event,
    current_revision,
    registered_cohorts,
)
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import CohortRow, PolicyRevisionRow

_log = logging.getLogger(__name__)

_READING_S: Final = 0.5


def policy_filter(fleet: str) -> str:
    """Return the topic filter of the policies of all cohorts of a fleet."""
    return policy_topic(fleet, "+", "+")


class _CurrentPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort's current policy in the database."""

    cohort_id: int
    address: CohortAddress
    revision: int
    document: bytes
    is_recorded: bool
    """Whether the database records its publication."""


class Publisher:
    """Keeps the retained policies of a fleet equal to the current policies in the database.

    Call `publish` and `reset` in one thread; `on_message` may be called in another one.

    Args:
        database: contains the policies.
        session: connection to the broker. It must pass messages on `policy_filter` to `on_message`.
        fleet: the fleet whose policies are published.
        keys: sign the policies. Ed25519 is deterministic, so the same document always has the same envelope.

    """

    def __init__(self, database: Database, session: BrokerSession, *, fleet: str, keys: Sequence[PrivateKey]) -> None:
        self._database = database
        self._session = session
        self._fleet = fleet
        self._keys = keys
        self._topics = RetainedTopics(session, what="policy of revision")
        self._public = [key.public_key() for key in keys]
        self._received = UnverifiedMessages()
        self._reading_until_s = -math.inf
        self._is_postponed = False
        self._recorder = RevisionRecorder(database)

    def reset(self) -> None:
        """Treat every policy as not published, because the broker may have lost its retained messages.

        What the broker has retained is read first, for half a second.
        """
        self._topics.reset()
        self._reading_until_s = time.monotonic() + _READING_S

    @property
    def postponed_s(self) -> float | None:
        """Seconds until `publish` is due because the last call has only read; None: it has not."""
        return max(0.0, self._reading_until_s - time.monotonic()) if self._is_postponed else None

    def on_message(self, topic: str, payload: bytes) -> None:
        """Compare a message on a policy topic with the published policy; if it replaced the policy, publish again."""
        if not self._topics.on_message(topic, payload):
            self._received.put(topic, payload)

    def publish(self, *, now: datetime) -> None:
        """Read what has arrived; publish every current policy that the broker does not have. Raises DatabaseError."""
        self._is_postponed = False
        self._read_received()
        if not self._session.connected:
            return
        self._is_postponed = time.monotonic() < self._reading_until_s
        if self._is_postponed:
            return
        current = self._current_policies()
        for policy in current:
            topic = policy_topic(*policy.address)
            if self._topics.is_due(topic, policy.revision):
                envelope = sign(policy.document, payload_type=PAYLOAD_TYPE, keys=self._keys)
                if not self._topics.send(topic, policy.revision, envelope, now=now):
                    return  # the connection is lost; the next one publishes every policy again
        for policy in current:
            if policy.is_recorded:
                continue
            published_at = self._topics.accepted_at(policy_topic(*policy.address), policy.revision)
            if published_at is not None:
                self._record_publication(policy, published_at)

    def _read_received(self) -> None:
        """Record the revisions that our keys have signed."""
        for topic, payload in self._received.waiting():
            signed = read_policy(topic, payload, fleet=self._fleet, keys=self._public)
            if signed is not None:
                self._recorder.record(signed)

    def _current_policies(self) -> Sequence[_CurrentPolicy]:
        """Return the policies to publish, without those that wait for a number that is not used yet."""
        with self._database.reading() as session:
            return [
                _CurrentPolicy(
                    cohort_id=cohort_id,
                    address=address,
                    revision=row.revision,
                    document=row.document.encode(),
                    is_recorded=row.published_at is not None,
                )
                for cohort_id, address in registered_cohorts(session, self._fleet)
                if (row := current_revision(session, cohort_id)) is not None
                and row.revision > session.get_one(CohortRow, cohort_id).highest_unknown_revision
            ]

    def _record_publication(self, policy: _CurrentPolicy, published_at: datetime) -> None:
        with self._database.writing() as session:
            key = (policy.cohort_id, policy.revision)
            row = session.get_one(PolicyRevisionRow, key, with_for_update=True)
            if row.published_at is not None:
                return  # another process was the leader meanwhile
            row.published_at = published_at
            details = {
                "revision": policy.revision,
                "keys": " ".join(key_id(key.public_key()) for key in self._keys),
            }
            add_event(session, policy.cohort_id, "published", details, actor=CALIBRATOR, now=published_at)
        _log.info("%s: published revision %d", policy.address, policy.revision)
