"""Publishes the current policies as signed, retained messages: after each connection, and after each replacement.

The calibrator subscribes to the policy topics of its fleet. The broker delivers the messages of a topic in order. A
message that arrives before the echo of our message is older, and our message has replaced it. A message that arrives
after the echo has replaced our message, so the policy is published again.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, key_id, sign
from edgeexit.wire import BrokerSession, policy_topic
from edgeexit_calibration.cohorts import (
    CALIBRATOR,
    CohortAddress,
    add_event,
    current_revision,
    registered_cohorts,
)
from edgeexit_calibration.database import Database
from edgeexit_calibration.tables import PolicyRevisionRow

_log = logging.getLogger(__name__)

_REFUSAL_TIMEOUT_S: Final = 5.0
"""A message that the broker has not refused within this time counts as accepted."""
_REPLACED_PAUSE_S: Final = 10.0
"""Minimum time between two publications on a topic to which another client publishes too."""
_REFUSED_PAUSE_S: Final = 60.0
"""Minimum time until a policy that the broker refused is published again."""
_WARNING_INTERVAL_S: Final = 600.0
"""Minimum time between two warnings about the same topic."""


def policy_filter(fleet: str) -> str:
    """Return the topic filter of the policies of all cohorts of a fleet."""
    return policy_topic(fleet, "+", "+")


class _TopicState(msgspec.Struct, kw_only=True):
    """The state of a cohort's policy topic over the current connection. Fields in `_s` are monotonic seconds."""

    revision: int | None = None
    """The revision that was sent and neither refused nor replaced; None if the policy must be sent."""
    envelope: bytes = b""
    sent_at: datetime | None = None
    sent_s: float = -math.inf
    echoed: bool = False
    """Whether the broker has delivered the envelope back."""
    not_before_s: float = -math.inf
    """Earliest time of the next publication."""
    warned_s: float = -math.inf


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

    Call `publish` and `reset` in one thread; `on_policy_message` and `on_refused` may be called in another one.

    Args:
        database: contains the policies.
        session: connection to the broker. It must pass messages on `policy_filter` to `on_policy_message`, and the
            topics of refused messages to `on_refused`.
        fleet: the fleet whose policies are published.
        key: signs the policies. Ed25519 is deterministic, so the same document always has the same envelope.

    """

    def __init__(self, database: Database, session: BrokerSession, *, fleet: str, key: PrivateKey) -> None:
        self._database = database
        self._session = session
        self._fleet = fleet
        self._key = key
        self._lock = threading.Lock()
        self._topics: dict[str, _TopicState] = {}

    def reset(self) -> None:
        """Treat every policy as not published, because the broker may have lost its retained messages."""
        with self._lock:
            self._topics = {
                topic: _TopicState(not_before_s=state.not_before_s, warned_s=state.warned_s)
                for topic, state in self._topics.items()
            }

    def on_policy_message(self, topic: str, payload: bytes) -> None:
        """Compare a message on a policy topic with the published policy; if it replaced the policy, publish again."""
        with self._lock:
            state = self._topics.get(topic)
            if state is None or state.revision is None:
                return
            if payload == state.envelope:
                state.echoed = True
            elif state.echoed:
                problem = "replaced" if payload else "cleared"
                consequence = "it is published again; does another client publish there?"
                self._mark_unpublished(topic, state, problem, consequence, pause_s=_REPLACED_PAUSE_S)

    def on_refused(self, topic: str) -> None:
        """Record that the broker refused a message; topics that are not policy topics are ignored."""
        with self._lock:
            state = self._topics.get(topic)
            if state is not None and state.revision is not None:
                consequence = f"next attempt in {_REFUSED_PAUSE_S:g} s; does its ACL let the calibrator write there?"
                self._mark_unpublished(topic, state, "refused by the broker", consequence, pause_s=_REFUSED_PAUSE_S)

    def publish(self, *, now: datetime) -> None:
        """Publish every current policy that the broker does not have. Raises DatabaseError."""
        if not self._session.connected:
            return
        current = self._current_policies()
        for policy in current:
            if self._is_due(policy) and not self._send(policy, now):
                return  # the connection is lost; the next one publishes every policy again
        for policy in current:
            published_at = None if policy.is_recorded else self._published_at(policy)
            if published_at is not None:
                self._record_publication(policy, published_at)

    def _current_policies(self) -> Sequence[_CurrentPolicy]:
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
            ]

    def _is_due(self, policy: _CurrentPolicy) -> bool:
        with self._lock:
            state = self._topics.setdefault(policy_topic(*policy.address), _TopicState())
            return state.revision != policy.revision and time.monotonic() >= state.not_before_s

    def _send(self, policy: _CurrentPolicy, now: datetime) -> bool:
        """Send a policy to the broker; return False if there is no connection."""
        topic = policy_topic(*policy.address)
        envelope = sign(policy.document, payload_type=PAYLOAD_TYPE, keys=[self._key])
        with self._lock:
            state = self._topics[topic]  # changed before sending, because the broker may respond at once
            state.revision, state.envelope, state.echoed = policy.revision, envelope, False
            state.sent_at, state.sent_s = now, time.monotonic()
        if self._session.publish(topic, envelope, retain=True):
            return True
        with self._lock:
            state.revision = None
        return False

    def _published_at(self, policy: _CurrentPolicy) -> datetime | None:
        """Return when a policy was published, or None while the broker may still refuse it."""
        with self._lock:
            state = self._topics[policy_topic(*policy.address)]
            is_accepted = state.echoed or time.monotonic() - state.sent_s > _REFUSAL_TIMEOUT_S
            return state.sent_at if state.revision == policy.revision and is_accepted else None

    def _record_publication(self, policy: _CurrentPolicy, published_at: datetime) -> None:
        with self._database.writing() as session:
            session.get_one(PolicyRevisionRow, (policy.cohort_id, policy.revision)).published_at = published_at
            details = {"revision": policy.revision, "key": key_id(self._key.public_key())}
            add_event(session, policy.cohort_id, "published", details, actor=CALIBRATOR, now=published_at)
        _log.info("%s: published revision %d", policy.address, policy.revision)

    @staticmethod
    def _mark_unpublished(topic: str, state: _TopicState, problem: str, consequence: str, *, pause_s: float) -> None:
        """Treat a policy as not published, and log a warning unless there was one about this topic recently."""
        clock = time.monotonic()
        if clock - state.warned_s > _WARNING_INTERVAL_S:
            state.warned_s = clock
            _log.warning("%s: the policy of revision %s was %s; %s", topic, state.revision, problem, consequence)
        state.revision = None
        state.not_before_s = max(clock, state.sent_s + pause_s)
