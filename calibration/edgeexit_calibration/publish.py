"""Publishes the policies that the database owns: signed, retained, again at every new connection and when replaced.

The calibrator hears its fleet's policy topics. A broker orders what is published on a topic: what comes before our own
message came before it, and is replaced by it; what comes behind it replaced ours, so ours goes out again.
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
from edgeexit_calibration.tables import PolicyRevision

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0
"""Brokers refuse a message within that time, if they do."""
_REPLACED_PAUSE_S: Final = 10.0
"""Pause between two publications on a topic where somebody else publishes, too."""
_REFUSED_PAUSE_S: Final = 60.0
"""Pause before a policy that the broker refused is offered again."""
_TOLD_PAUSE_S: Final = 600.0
"""A topic's trouble is told at most once in that time."""


def policy_filter(fleet: str) -> str:
    """Return the subscription to the policies of all cohorts of a fleet."""
    return policy_topic(fleet, "+", "+")


class _Standing(msgspec.Struct, kw_only=True):
    """A cohort's topic as this connection knows it; times are monotonic seconds unless they are moments."""

    revision: int | None = None
    """What was handed to the broker and stands there, as far as is known; null: a policy has to go out."""
    envelope: bytes = b""
    handed_at: datetime | None = None
    handed_s: float = -math.inf
    echoed: bool = False
    """Whether it came back from the broker."""
    not_before_s: float = -math.inf
    """When the next publication may be."""
    told_s: float = -math.inf


class _Current(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort's policy in force, as the database has it."""

    cohort_id: int
    address: CohortAddress
    revision: int
    document: bytes
    is_noted: bool
    """Whether it is written down that it was published."""


class Publisher:
    """Keeps a fleet's retained policies as the database has them.

    `publish` and `forget` belong to one thread; `notice` and `refused` may be called in another.

    Args:
        database: owns the policies.
        session: to the broker; its messages on `policy_filter` go to `notice`, its refusals to `refused`.
        fleet: whose cohorts.
        key: signs them; Ed25519 is deterministic, so the same document has the same envelope every time.

    """

    def __init__(self, database: Database, session: BrokerSession, *, fleet: str, key: PrivateKey) -> None:
        self._database = database
        self._session = session
        self._fleet = fleet
        self._key = key
        self._lock = threading.Lock()
        self._standings: dict[str, _Standing] = {}

    def forget(self) -> None:
        """Take nothing as published: the broker may have lost what it held."""
        with self._lock:
            self._standings = {
                topic: _Standing(not_before_s=standing.not_before_s, told_s=standing.told_s)
                for topic, standing in self._standings.items()
            }

    def notice(self, topic: str, payload: bytes) -> None:
        """Compare what came on a policy topic with what was published there, and take note where it was replaced."""
        with self._lock:
            standing = self._standings.get(topic)
            if standing is None or standing.revision is None:
                return
            if payload == standing.envelope:
                standing.echoed = True
            elif standing.echoed:
                what = "replaced" if payload else "cleared"
                consequence = "it goes out again; does somebody else publish there?"
                self._take_back(topic, standing, what, consequence, pause_s=_REPLACED_PAUSE_S)

    def refused(self, topic: str) -> None:
        """Take note that the broker refused a message on a topic, whatever it is."""
        with self._lock:
            standing = self._standings.get(topic)
            if standing is not None and standing.revision is not None:
                consequence = (
                    f"offered again every {_REFUSED_PAUSE_S:g} s; does its ACL let the calibrator write there?"
                )
                self._take_back(topic, standing, "refused by the broker", consequence, pause_s=_REFUSED_PAUSE_S)

    def publish(self, *, now: datetime) -> None:
        """Publish every current policy that does not stand at the broker. Raises DatabaseError."""
        if not self._session.connected:
            return
        current = self._current()
        for policy in current:
            if self._is_due(policy) and not self._hand_over(policy, now):
                return  # the connection is gone; the next one starts over
        for policy in current:
            published_at = None if policy.is_noted else self._published_at(policy)
            if published_at is not None:
                self._note(policy, published_at)

    def _current(self) -> Sequence[_Current]:
        with self._database.reading() as session:
            return [
                _Current(
                    cohort_id=cohort_id,
                    address=address,
                    revision=row.revision,
                    document=row.document.encode(),
                    is_noted=row.published_at is not None,
                )
                for cohort_id, address in registered_cohorts(session, self._fleet)
                if (row := current_revision(session, cohort_id)) is not None
            ]

    def _is_due(self, policy: _Current) -> bool:
        with self._lock:
            standing = self._standings.setdefault(policy_topic(*policy.address), _Standing())
            return standing.revision != policy.revision and time.monotonic() >= standing.not_before_s

    def _hand_over(self, policy: _Current, now: datetime) -> bool:
        """Give a policy to the broker; return False when there is no connection."""
        topic = policy_topic(*policy.address)
        envelope = sign(policy.document, payload_type=PAYLOAD_TYPE, key=self._key)
        with self._lock:
            standing = self._standings[topic]  # known before it is sent: the broker may answer at once
            standing.revision, standing.envelope, standing.echoed = policy.revision, envelope, False
            standing.handed_at, standing.handed_s = now, time.monotonic()
        if self._session.publish(topic, envelope, retain=True):
            return True
        with self._lock:
            standing.revision = None
        return False

    def _published_at(self, policy: _Current) -> datetime | None:
        """Return when a policy was published, or None while the broker may still refuse it."""
        with self._lock:
            standing = self._standings[policy_topic(*policy.address)]
            is_settled = standing.echoed or time.monotonic() - standing.handed_s > _ANSWER_S
            return standing.handed_at if standing.revision == policy.revision and is_settled else None

    def _note(self, policy: _Current, published_at: datetime) -> None:
        with self._database.writing() as session:
            session.get_one(PolicyRevision, (policy.cohort_id, policy.revision)).published_at = published_at
            details = {"revision": policy.revision, "key": key_id(self._key.public_key())}
            add_event(session, policy.cohort_id, "published", details, who=CALIBRATOR, now=published_at)
        _log.info("%s: published revision %d", policy.address, policy.revision)

    @staticmethod
    def _take_back(topic: str, standing: _Standing, what: str, consequence: str, *, pause_s: float) -> None:
        """Take a policy as not published, and tell it unless that was told lately."""
        clock = time.monotonic()
        if clock - standing.told_s > _TOLD_PAUSE_S:
            standing.told_s = clock
            _log.warning("%s: the policy of revision %s was %s; %s", topic, standing.revision, what, consequence)
        standing.revision = None
        standing.not_before_s = max(clock, standing.handed_s + pause_s)
