"""Publishes the policies that the database owns: signed, retained, and again at every new connection."""

import logging
from datetime import datetime

from sqlalchemy.orm import Session

from edgeexit.messages import policy_topic
from edgeexit.mqtt import BrokerSession
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, key_id, sign
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


class Publisher:
    """Keeps a fleet's retained policies as the database has them.

    Args:
        database: owns the policies.
        session: to the broker.
        fleet: whose cohorts.
        key: signs them; Ed25519 is deterministic, so the same document has the same envelope every time.

    """

    def __init__(self, database: Database, session: BrokerSession, *, fleet: str, key: PrivateKey) -> None:
        self._database = database
        self._session = session
        self._fleet = fleet
        self._key = key
        self._published: dict[int, int] = {}

    def forget(self) -> None:
        """Take nothing as published: the broker may have lost what it held."""
        self._published.clear()

    def publish(self, *, now: datetime) -> None:
        """Publish every current policy that this connection has not seen. Raises DatabaseError."""
        if not self._session.connected:
            return
        with self._database.reading() as session:
            due = [
                (cohort_id, address, row)
                for cohort_id, address in registered_cohorts(session, self._fleet)
                if (row := current_revision(session, cohort_id)) and self._published.get(cohort_id) != row.revision
            ]
        for cohort_id, address, row in due:
            envelope = sign(row.document.encode(), payload_type=PAYLOAD_TYPE, key=self._key)
            if not self._session.publish(policy_topic(*address), envelope, retain=True):
                return  # the connection is gone; the next one starts over
            if row.published_at is None:
                with self._database.writing() as session:
                    self._note(session, cohort_id, address, row.revision, now)
            self._published[cohort_id] = row.revision

    def _note(self, session: Session, cohort_id: int, address: CohortAddress, revision: int, now: datetime) -> None:
        row = session.get_one(PolicyRevision, (cohort_id, revision))
        row.published_at = now
        details = {"revision": revision, "key": key_id(self._key.public_key())}
        add_event(session, cohort_id, "published", details, who=CALIBRATOR, now=now)
        _log.info("%s: published revision %d", address, revision)
