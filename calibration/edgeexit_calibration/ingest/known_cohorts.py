"""The cohorts that the messages of devices name, as far as storing the next message needs them.

Another process registers cohorts and issues revisions, so what is known is read again after a second.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from edgeexit.policies.document import MAX_REVISION
from edgeexit.wire import Audit, State
from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.report_head import ReportHead
from edgeexit_calibration.store.cohorts import CohortAddress, add_cohort
from edgeexit_calibration.store.tables import CohortRow, PolicyRevisionRow, RegistrationRow

_MAX_ENTRIES: Final = 10_000
_FRESH_S: Final = 1.0


class KnownCohort(NamedTuple):
    """A cohort as the database had it."""

    id: int
    newest: int
    """Its newest revision; 0: none."""
    exits: int | None
    """Number of exits of its bundle; None: not registered."""
    task: str | None
    """Task of its bundle; None: not registered."""
    claimed: int
    """The highest revision that a device reports and that this database did not issue, or 0."""


class KnownCohorts:
    """Finds cohorts, and adds those that are new. Only one thread may use it.

    Args:
        max_unregistered: how many cohorts a fleet may have that nobody registered.
        clock: returns monotonic seconds.

    """

    def __init__(self, max_unregistered: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_unregistered = max_unregistered
        self._clock = clock
        self._known: BoundedCache[tuple[str, str, str], KnownCohort] = BoundedCache(_MAX_ENTRIES)
        self._read_at_s = clock()
        self._no_room: set[tuple[str, str, str]] = set()
        self._claims: dict[int, int] = {}

    def forget(self) -> None:
        """Read every cohort again when it is needed."""
        self._known.clear()

    def begin(self) -> None:
        """Begin a batch; forget what is older than a second."""
        self._no_room.clear()
        self._claims.clear()
        if self._clock() - self._read_at_s >= _FRESH_S:
            self._read_at_s = self._clock()
            self.forget()

    def find(self, session: Session, fleet: str, message: State | ReportHead | Audit) -> KnownCohort | None:
        """Return the cohort that a message names; create it if it is new; return None if the fleet has no room for it.

        Also note the revision that the device runs if this database did not issue it. Nobody has proven it. Such a
        revision is higher than the newest one in the database. Or it has the same number, and the device has rejected
        the policy of this database.
        """
        address = (fleet, message.bundle, message.cohort)
        known = self._known.get(address)
        if known is None:
            if address in self._no_room:
                return None
            known = self._read(session, CohortAddress(*address))
            if known is None:
                self._no_room.add(address)
                return None
            self._known.put(address, known)
        if message.revision > known.newest or (
            isinstance(message, State)
            and message.rejected is not None
            and message.revision == known.newest == message.rejected.revision
        ):
            self._claim(known, message.revision)
        return known

    def write_claims(self, session: Session) -> None:
        """Write the highest revision that was noted in this batch per cohort."""
        for cohort_id, revision in sorted(self._claims.items()):
            session.execute(
                update(CohortRow)
                .where(CohortRow.id == cohort_id, CohortRow.claimed_revision < revision)
                .values(claimed_revision=revision)
                .execution_options(synchronize_session=False)
            )

    def _claim(self, cohort: KnownCohort, revision: int) -> None:
        if cohort.claimed < revision <= MAX_REVISION:
            self._claims[cohort.id] = max(revision, self._claims.get(cohort.id, 0))

    def _read(self, session: Session, address: CohortAddress) -> KnownCohort | None:
        row = session.execute(_query(address)).one_or_none()
        if row is None:
            unregistered = select(func.count()).select_from(CohortRow).outerjoin(RegistrationRow)
            unregistered = unregistered.where(CohortRow.fleet == address.fleet, RegistrationRow.cohort_id.is_(None))
            if (session.scalar(unregistered) or 0) >= self.max_unregistered:
                return None
            return KnownCohort(add_cohort(session, address).id, newest=0, exits=None, task=None, claimed=0)
        number, claimed, exits, task, newest = row
        return KnownCohort(number, newest or 0, None if exits is None else len(exits), task, claimed)


def _query(address: CohortAddress) -> Select[int, int, list[str] | None, str | None, int | None]:
    newest = select(func.max(PolicyRevisionRow.revision)).where(PolicyRevisionRow.cohort_id == CohortRow.id)
    return (
        select(
            CohortRow.id,
            CohortRow.claimed_revision,
            RegistrationRow.exits,
            RegistrationRow.task,
            newest.scalar_subquery(),
        )
        .outerjoin(RegistrationRow)
        .filter(
            CohortRow.fleet == address.fleet, CohortRow.bundle == address.bundle, CohortRow.cohort == address.cohort
        )
    )
