"""The policies of the revisions that audits name, as far as the database has issued them."""

import logging
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.errors import PolicyError
from edgeexit.limited_log import LimitedLog
from edgeexit.policies import Policy, decode_document
from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.known_cohorts import KnownCohort
from edgeexit_calibration.store.tables import PolicyRevisionRow

_log = logging.getLogger(__name__)

_MAX_ENTRIES: Final = 10_000
_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of the documents; decoded ones take several times as much."""


class _KnownPolicy(NamedTuple):
    policy: Policy | None
    """None: the database has no such revision, or this process cannot decode it."""
    size: int


class KnownPolicies:
    """Finds policies. A document never changes, so a policy is read once. Only one thread may use it."""

    def __init__(self) -> None:
        self._repeats = LimitedLog(_log)
        self._known: BoundedCache[tuple[int, int], _KnownPolicy] = BoundedCache(
            _MAX_ENTRIES, max_bytes=_MAX_BYTES, size_of=lambda known: known.size
        )

    def forget(self) -> None:
        """Read every policy again when it is needed."""
        self._known.clear()

    def find(self, session: Session, cohort: KnownCohort, revision: int) -> Policy | None:
        """Return the policy of a revision, or None if this database has not issued it.

        That is so for revision 0, which is the policy in the bundle: `edgeexit fit` may have replaced it after a device
        started with it. Revisions are issued in ascending order, so one that is missing below the newest never appears.
        """
        if not 0 < revision <= cohort.newest:
            return None
        key = (cohort.id, revision)
        known = self._known.get(key)
        if known is None:
            known = self._read(session, key)
            self._known.put(key, known)
        return known.policy

    def _read(self, session: Session, key: tuple[int, int]) -> _KnownPolicy:
        cohort_id, revision = key
        query = select(PolicyRevisionRow.document).filter_by(cohort_id=cohort_id, revision=revision)
        content = session.scalar(query)
        if content is None:
            return _KnownPolicy(None, 0)
        try:
            return _KnownPolicy(decode_document(content.encode()).policy, len(content))
        except PolicyError as error:
            self._repeats.warning(key, "decisions under revision %d are not checked: %s", revision, error)
            return _KnownPolicy(None, 0)
