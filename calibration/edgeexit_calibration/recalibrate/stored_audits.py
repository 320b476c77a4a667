"""Reads the audits of a cohort that count, as the recalibration needs them."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import numpy as np
from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from edgeexit.policies import Policy, simulate
from edgeexit.policies.readout import readouts_from_bytes
from edgeexit_calibration.recalibrate.audits import AuditLoss, Audits
from edgeexit_calibration.recalibrate.used_revisions import UsedRevisions
from edgeexit_calibration.store.stored_scores import differing_from_bytes, scores_from_bytes
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditRow, RegistrationRow


class AuditReader:
    """Reads the audits of a cohort that show what its samples do under a policy, whatever its thresholds are.

    Args:
        cohort_id: the cohort.
        policy: its temperatures and its number of exits are those of the audits.
        revisions: whose audits are comparable, see `cohorts.comparable_revisions`.
        used: which of them are used.
        loss: if it needs labels, only audits with a label are read.

    """

    def __init__(
        self, cohort_id: int, policy: Policy, revisions: Sequence[int], used: UsedRevisions, *, loss: AuditLoss
    ) -> None:
        self._cohort_id = cohort_id
        self._policy = policy
        self._revisions = revisions
        self._loss: AuditLoss = loss
        self._query = (
            select(
                AuditedSampleRow.id,
                AuditRow.device_id,
                AuditedSampleRow.readouts,
                AuditedSampleRow.scores,
                AuditedSampleRow.differing,
                AuditedSampleRow.label,
            )
            .join(AuditRow, AuditRow.id == AuditedSampleRow.audit_id)
            .where(AuditedSampleRow.cohort_id == cohort_id, AuditedSampleRow.exits == policy.exits)
            .where(AuditedSampleRow.counted.is_(True), _is_one_of(revisions), _is_used(used), _is_of_task(cohort_id))
        )
        if policy.reads_probabilities:
            self._query = self._query.where(AuditedSampleRow.scores.is_not(None))
        if needs_labels(loss):
            self._query = self._query.where(AuditedSampleRow.label.is_not(None), AuditedSampleRow.differing.is_(None))

    def following(self, revision: int, used: UsedRevisions) -> "AuditReader":
        """Return a reader for the time after a comparable revision was issued."""
        return AuditReader(self._cohort_id, self._policy, [*self._revisions, revision], used, loss=self._loss)

    def oldest(self, session: Session, *, after: int, until: int, limit: int) -> Audits:
        """Return the oldest `limit` audits with ids above `after`, up to `until`."""
        query = self._query.where(AuditedSampleRow.id > after, AuditedSampleRow.id <= until)
        return self._audits(session, query.order_by(AuditedSampleRow.id).limit(limit))

    def newest(self, session: Session, *, first: int, last: int, limit: int) -> Audits:
        """Return the newest `limit` audits with ids from `first` to `last`, in the order of arrival."""
        query = self._query.where(AuditedSampleRow.id >= first, AuditedSampleRow.id <= last)
        return self._audits(session, query.order_by(AuditedSampleRow.id.desc()).limit(limit), newest_first=True)

    def arrived(self, session: Session, *, limit: int) -> tuple[int, datetime | None]:
        """Return the number of the newest `limit` audits, or of all, and when the first of them arrived."""
        ids = self._query.with_only_columns(AuditedSampleRow.audit_id, maintain_column_froms=True)
        newest = ids.order_by(AuditedSampleRow.id.desc()).limit(limit).subquery()
        query = select(func.count(), func.min(AuditRow.received_at)).select_from(newest)
        count, first = session.execute(query.join(AuditRow, AuditRow.id == newest.c.audit_id)).one()
        return count, first

    def _audits(
        self,
        session: Session,
        query: Select[int, int, bytes, bytes | None, bytes | None, int | None],
        *,
        newest_first: bool = False,
    ) -> Audits:
        rows = list(session.execute(query))
        if newest_first:
            rows.reverse()
        audits = Audits(
            np.array([row.id for row in rows], np.int64),
            np.array([row.device_id for row in rows], np.int64),
            readouts_from_bytes(b"".join(row.readouts for row in rows), self._policy.exits),
            labels=np.array([-1 if row.label is None else row.label for row in rows], np.int64),
        )
        if rows and rows[0].differing is not None:
            content = b"".join(row.differing for row in rows)
            audits = audits._replace(differing=differing_from_bytes(content, self._policy.exits))
        if self._policy.reads_probabilities:
            scored = scores_from_bytes(b"".join(row.scores for row in rows), self._policy.exits)
            return audits._replace(scores=scored.scores, predictions=scored.predictions)
        scores, predictions = simulate(self._policy, audits.readouts)  # once, not for each path and each look
        return audits._replace(scores=scores, predictions=predictions)


def _is_of_task(cohort_id: int) -> ColumnElement[bool]:
    """Return the condition that a sample has fractions of a map if the cohort's bundle predicts maps, and only then.

    Agents older than these fractions send none, and before the registration nothing is known of the bundle.
    """
    task = select(RegistrationRow.task).where(RegistrationRow.cohort_id == cohort_id).scalar_subquery()
    return AuditedSampleRow.differing.is_(None) == (task == "classification")


def needs_labels(loss: AuditLoss) -> bool:
    """Return whether the true class of a sample must be known for this loss."""
    return loss != "disagreement"


def _is_one_of(revisions: Sequence[int]) -> ColumnElement[bool]:
    """Return the condition that the revision of a sample is one of these, as few ranges: there may be thousands."""
    ordered = sorted(revisions)
    gaps = [place for place, (one, other) in enumerate(pairwise(ordered), 1) if other != one + 1]
    ranges = [(ordered[start], ordered[stop - 1]) for start, stop in pairwise([0, *gaps, len(ordered)])]
    return or_(*(AuditedSampleRow.revision.between(lowest, highest) for lowest, highest in ranges))


def _is_used(used: UsedRevisions) -> ColumnElement[bool]:
    """Return the condition that the revision of a sample is used."""
    revision = AuditedSampleRow.revision
    return or_(
        and_(AuditedSampleRow.id <= used.until, revision >= used.lowest),
        and_(AuditedSampleRow.id > used.until, revision >= used.lowest_after),
    )
