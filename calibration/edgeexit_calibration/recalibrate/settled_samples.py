"""Up to which id the audited samples are settled: no sample with a lower id becomes visible any more.

On PostgreSQL, processes store audits at the same time. Each takes the next ids when it inserts, but they become visible
when it commits, so lower ids may appear after higher ones. A guarantee that has seen an id never goes back. So it is
fed up to an id that was visible when a set of transactions was running, after the last of these has ended.
"""

from collections import deque
from typing import Final, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from edgeexit_calibration.store.tables import AuditedSampleRow

_SNAPSHOT: Final = text(
    "SELECT pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint FROM pg_current_snapshot() AS now"
)
_MAX_MARKS: Final = 1000


class _Mark(NamedTuple):
    """A moment: the first transaction that had not begun, and the highest id that was visible."""

    next_transaction: int
    highest: int


class SettledSamples:
    """Finds the highest settled id of the audited samples of a database. Only one thread may use it."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque(maxlen=_MAX_MARKS)
        self._settled = 0

    def highest(self, session: Session) -> int:
        """Return the highest settled id as of the snapshot of a session that reads."""
        visible = session.scalar(select(func.max(AuditedSampleRow.id))) or 0
        if session.get_bind().dialect.name == "sqlite":
            return visible  # the only transaction that writes
        oldest_running, next_transaction = session.execute(_SNAPSHOT).one()
        self._marks.append(_Mark(next_transaction, visible))
        while self._marks and self._marks[0].next_transaction <= oldest_running:
            self._settled = max(self._settled, self._marks.popleft().highest)
        return self._settled
