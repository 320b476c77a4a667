"""Reads revisions that our keys have signed from the broker, and records those that this database did not issue.

Such a revision comes from an earlier database, which was lost or replaced by a backup. Its number is used: devices
accept no lower one, and no other policy with the same one. What devices report is not signed, so it is never recorded
here; a user can accept it.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from edgeexit.errors import MessageError, SignatureError
from edgeexit.limited_log import LimitedLog
from edgeexit.policies import Scope
from edgeexit.policies.document import MAX_REVISION, PAYLOAD_TYPE, Digest, Revision
from edgeexit.signing import PublicKey, verify
from edgeexit.wire import HEARTBEAT_TYPE, Heartbeat, decode, heartbeat_topic, policy_topic
from edgeexit_calibration.store.cohorts import (
    CohortAddress,
    current_revision,
    find_cohort,
    find_or_add_cohort,
    locked_cohort,
)
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import CohortRow, PolicyRevisionRow

_log = logging.getLogger(__name__)


class _Numbered(msgspec.Struct, frozen=True):
    """The part of a policy document that says which number it uses; fields and kinds of later versions may follow."""

    bundle: Digest
    revision: Revision
    scope: Scope


class SignedRevision(NamedTuple):
    """A revision of a cohort that one of our keys has signed."""

    address: CohortAddress
    revision: int
    document: bytes | None
    """The policy document; None if a heartbeat named the revision."""


def read_policy(topic: str, payload: bytes, *, fleet: str, keys: Sequence[PublicKey]) -> SignedRevision | None:
    """Return the revision of a policy, or None if none of `keys` signed it for this topic of the fleet."""
    try:
        content = verify(payload, payload_type=PAYLOAD_TYPE, keys=keys)
        document = msgspec.json.decode(content, type=_Numbered)
    except (SignatureError, msgspec.DecodeError, RecursionError):
        return None
    scope = document.scope
    if scope.cohort is None:
        return None
    address = CohortAddress(scope.fleet, document.bundle, scope.cohort)
    if scope.fleet != fleet or topic != policy_topic(*address):
        return None
    return SignedRevision(address, document.revision, content)


def read_heartbeat(topic: str, payload: bytes, *, fleet: str, keys: Sequence[PublicKey]) -> Heartbeat | None:
    """Return a heartbeat, or None if none of `keys` signed it for this topic of the fleet."""
    try:
        heartbeat = decode(verify(payload, payload_type=HEARTBEAT_TYPE, keys=keys), Heartbeat)
    except (SignatureError, MessageError):
        return None
    own_topic = heartbeat_topic(heartbeat.fleet, heartbeat.bundle, heartbeat.cohort)
    return heartbeat if heartbeat.fleet == fleet and topic == own_topic else None


class RevisionRecorder:
    """Writes signed revisions that this database did not issue into the database.

    Args:
        database: contains the cohorts.

    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._repeats = LimitedLog(_log)

    def record(self, signed: SignedRevision) -> None:
        """Record a revision if the database does not know it, so that the cohort's next number is above it.

        The cohort is added if the database does not contain it; only a holder of our key can cause that. Raises
        DatabaseError.
        """
        address, revision = signed.address, signed.revision
        if revision >= MAX_REVISION:
            text = (
                "%s: our key has signed revision %d, after which none can follow; was it stolen? Replace the key, and "
            )
            self._repeats.warning(address, f"{text}give the cohort another name", address, revision)
            return
        with self._database.reading() as session:
            cohort = find_cohort(session, address)
            if cohort is not None and not _is_unknown(signed, cohort, current_revision(session, cohort.id)):
                return
        with self._database.writing() as session:
            cohort = locked_cohort(session, find_or_add_cohort(session, address).id)
            if _is_unknown(signed, cohort, current_revision(session, cohort.id)):
                cohort.highest_unknown_revision = revision


def _is_unknown(signed: SignedRevision, cohort: CohortRow, current: PolicyRevisionRow | None) -> bool:
    """Return True if the database contains neither the revision nor a higher one."""
    if signed.revision <= cohort.highest_unknown_revision:
        return False
    if current is None or signed.revision != current.revision:
        return current is None or signed.revision > current.revision
    return signed.document is not None and signed.document != current.document.encode()
