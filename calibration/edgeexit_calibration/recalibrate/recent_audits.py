"""Reads the audits of a cohort, and keeps the newest ones in memory, because they are compared again and again."""

from typing import NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.stored_audits import AuditReader
from edgeexit_calibration.recalibrate.used_revisions import UsedRevisions


class RecentAudits:
    """Reads what `AuditReader` reads, from memory where it can.

    Args:
        reader: reads the audits that are not in memory.
        keep: so many audits are kept in memory beside those that were read last.

    """

    def __init__(self, reader: AuditReader, *, keep: int) -> None:
        self._reader = reader
        self._keep = keep
        self._kept: _Stretch | None = None

    def following(self, revision: int, used: UsedRevisions) -> "RecentAudits":
        """Return a reader for the time after a comparable revision was issued."""
        return RecentAudits(self._reader.following(revision, used), keep=self._keep)

    def oldest(self, session: Session, *, after: int, until: int, limit: int) -> Audits:
        """Return the oldest `limit` audits with ids above `after`, up to `until`."""
        found = self._reader.oldest(session, after=after, until=until, limit=limit)
        last = int(found.ids[-1]) if len(found.ids) == limit else until
        self._kept = _joined(self._kept, _Stretch(after + 1, last, found), keep=self._keep)
        return found

    def newest(self, session: Session, *, first: int, last: int, limit: int) -> Audits:
        """Return the newest `limit` audits with ids from `first` to `last`, in the order of arrival."""
        known = None if self._kept is None else self._kept.newest(first, last, limit)
        if known is not None:
            return known
        found = self._reader.newest(session, first=first, last=last, limit=limit)
        if limit <= self._keep:
            begin = first if len(found.ids) < limit else int(found.ids[0])
            self._kept = _joined(_Stretch(begin, last, found), self._kept, keep=self._keep)
        return found


class _Stretch(NamedTuple):
    """All audits that are used, with ids from `first` to `last`."""

    first: int
    last: int
    audits: Audits

    def newest(self, first: int, last: int, limit: int) -> Audits | None:
        """Return the newest `limit` audits with ids from `first` to `last`; None if one of them may be missing."""
        start, stop = np.searchsorted(self.audits.ids, [first, last + 1]).tolist()
        if last > self.last or (first < self.first and stop - start < limit):
            return None
        return self.audits.part(max(start, stop - limit), stop)


def _joined(earlier: _Stretch | None, later: _Stretch | None, *, keep: int) -> _Stretch | None:
    """Return the later audits with at most `keep` earlier ones before them, if none is missing between them."""
    if earlier is None or later is None:
        return later or earlier
    if not earlier.first <= later.first <= earlier.last + 1:
        return later
    before = earlier.audits.part(0, int(np.searchsorted(earlier.audits.ids, later.first)))
    is_cut, before = len(before.ids) > keep, before.part(max(len(before.ids) - keep, 0))
    joined = _with(before, later.audits)
    if joined is None:
        return later
    return _Stretch(int(before.ids[0]) if is_cut else earlier.first, later.last, joined)


def _with(audits: Audits, others: Audits) -> Audits | None:
    """Return the audits of both; None if they have other columns."""
    if not len(audits.ids) or not len(others.ids):
        return others if len(others.ids) else audits
    pairs = list(zip(audits, others, strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        return None
    return Audits._make(None if one is None or other is None else np.concatenate([one, other]) for one, other in pairs)
