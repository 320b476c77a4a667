"""Metrics of a cohort's policies: exit mix, latency and disagreement, per revision and per span of audits.

A span is (after, until] in ids of audited samples. `audit_watermark` returns the current newest id: use it as the end
of one span and the start of the next one.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, e, floor
from typing import Final, Literal

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from edgeexit.fitting import lower_bound, upper_bound
from edgeexit_calibration.ingest.count_matrix import sum_groups, unpack_rows
from edgeexit_calibration.store.cohorts import CohortAddress, find_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.stored_scores import differing_from_bytes
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditTotalRow,
    CohortBucketRow,
    RegistrationRow,
)
from edgeexit_calibration.views.buckets import (
    exited,
    exits_of,
    latency_histograms,
    mean_latency_ms,
)

CLASSIFICATION: Final = "classification"
Unit = Literal["samples", "pixels", "tokens"]
UNITS: Final[Mapping[str, Unit]] = {
    CLASSIFICATION: "samples",
    "segmentation": "pixels",
    "tagging": "tokens",
}
"""Task of a bundle -> what its predictions are of."""


class ExitMix(msgspec.Struct, frozen=True, kw_only=True):
    """The number of samples that exited at each exit."""

    samples: int
    counts: tuple[int, ...]
    """[K]; empty for an unknown cohort."""
    mean_latency_ms: float | None = None
    """Computed from histogram bins of half an octave, so accurate to about 20 %; null if it was not measured."""

    @property
    def rates(self) -> tuple[float, ...] | None:
        """[K] fractions of the samples, or None without samples."""
        return tuple(count / self.samples for count in self.counts) if self.samples else None


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """The fraction of the predictions on audited samples that differ from the final exit's; for maps, of the pixels."""

    samples: int
    """Number of audited samples."""
    disagreeing: int
    """Number of samples whose prediction differs; for maps, anywhere."""
    observed: float | None
    """`disagreeing` / `samples`; for maps, the mean fraction that differs; null without samples."""
    low: float
    """Lower end of the interval: Clopper-Pearson, or Bentkus for maps; 0 without samples."""
    high: float
    """Upper end of the interval; 1 without samples."""
    confidence: float
    """Confidence of the interval, e.g. 0.95."""
    unit: Unit = "samples"
    """What disagrees; the cohort's bundle decides it. `samples` if the cohort is not registered."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The fraction of right predictions over the audited samples whose true class is known."""

    samples: int
    """Number of these samples."""
    observed: float | None
    """Of the policy; null without samples."""
    full_depth: float | None
    """Of the final exit, on the same samples."""


def accuracy_of(samples: int, correct: int, final_correct: int) -> Accuracy:
    """Return the accuracy of samples of which so many have a right prediction."""
    if not samples:
        return Accuracy(samples=0, observed=None, full_depth=None)
    return Accuracy(samples=samples, observed=correct / samples, full_depth=final_correct / samples)


def exit_mix(database: Database, cohort: CohortAddress, *, revision: int | None = None) -> ExitMix:
    """Return the exit mix and the latency of the samples that devices reported under a revision (None: under all)."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return ExitMix(samples=0, counts=())
        query = select(CohortBucketRow.counts).filter_by(cohort_id=found.id)
        packed = session.scalars(query if revision is None else query.filter_by(revision=revision)).all()
        return mix_of(packed, _exit_count(session, found.id, (exits_of(packed),)))


def mix_of(packed: Sequence[bytes], exits: int) -> ExitMix:
    """Return the exit mix of the packed counts of buckets."""
    if not packed:
        return ExitMix(samples=0, counts=(0,) * exits)
    (counts,) = sum_groups(unpack_rows(packed, exits), [0] * len(packed), 1)
    by_exit = exited(counts)
    latency_ms = mean_latency_ms(latency_histograms(counts).sum(axis=0))
    return ExitMix(samples=sum(by_exit), counts=by_exit, mean_latency_ms=latency_ms)


def audited_exit_mix(
    database: Database,
    cohort: CohortAddress,
    *,
    revision: int | None = None,
    after: int = 0,
    until: int | None = None,
) -> ExitMix:
    """Return the exit mix of the audited samples in the span (after, until], without latency.

    It is an unbiased estimate of the mix of all samples, because audits are chosen at random.
    """
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return ExitMix(samples=0, counts=())
        exits, span = _span(session, found.id, revision, after, until)
        query = select(AuditedSampleRow.exit, func.count()).where(*span)
        by_exit = {row[0]: row[1] for row in session.execute(query.group_by(AuditedSampleRow.exit))}
    counts = tuple(by_exit.get(k, 0) for k in range(exits))
    return ExitMix(samples=sum(counts), counts=counts)


def disagreement(
    database: Database,
    cohort: CohortAddress,
    *,
    revision: int | None = None,
    after: int = 0,
    until: int | None = None,
    confidence: float = 0.95,
) -> Disagreement:
    """Return the disagreement with the final exit over the audited samples in the span (after, until]."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return interval(0, 0, 0, confidence=confidence)
        task = session.scalar(select(RegistrationRow.task).filter_by(cohort_id=found.id)) or CLASSIFICATION
        if after == 0 and until is None:
            return interval(*_total(session, found.id, revision), task=task, confidence=confidence)
        exits, span = _span(session, found.id, revision, after, until)
        query = select(AuditedSampleRow.disagrees, func.count()).where(*span).group_by(AuditedSampleRow.disagrees)
        counts = {row[0]: row[1] for row in session.execute(query)}
        disagreeing, samples = counts.get(True, 0), sum(counts.values())
        loss = disagreeing if task == CLASSIFICATION else _map_loss(session, span, exits)
        return interval(disagreeing, samples, loss, task=task, confidence=confidence)


def _total(session: Session, cohort_id: int, revision: int | None) -> tuple[int, int, float]:
    """Return the arguments of `interval` for all audited samples of a revision (None: of all)."""
    chosen = {"cohort_id": cohort_id} if revision is None else {"cohort_id": cohort_id, "revision": revision}
    query = select(func.sum(AuditTotalRow.disagreeing), func.sum(AuditTotalRow.samples), func.sum(AuditTotalRow.loss))
    disagreeing, samples, loss = session.execute(query.filter_by(**chosen)).one()
    return int(disagreeing or 0), int(samples or 0), float(loss or 0)


def _map_loss(session: Session, span: Sequence[ColumnElement[bool]], exits: int) -> float:
    """Return the sum of the fractions of the maps that differ at the exits of the samples of a span."""
    query = select(AuditedSampleRow.exit, AuditedSampleRow.differing).where(*span)
    rows = session.execute(query.where(AuditedSampleRow.differing.is_not(None))).all()
    differing = differing_from_bytes(b"".join(row.differing for row in rows), exits)
    return float(differing[np.arange(len(rows)), [row.exit for row in rows]].sum(dtype=np.float64))


def interval(
    disagreeing: int, samples: int, loss: float, *, task: str = CLASSIFICATION, confidence: float = 0.95
) -> Disagreement:
    """Return the disagreement of a number of samples, of which `disagreeing` differ, with its interval.

    `loss` is the sum of the fractions that differ, for maps; otherwise it is `disagreeing`, and the interval is that of
    Clopper and Pearson. The tail of a sum of fractions is at most e times that of a binomial number with the same mean
    (Bentkus, "On Hoeffding's inequalities", Ann. Probab. 2004), so their interval is wider.
    """
    is_map = task != CLASSIFICATION
    tail = (1 - confidence) / 2 / (e if is_map else 1)
    return Disagreement(
        samples=samples,
        disagreeing=disagreeing,
        observed=loss / samples if samples else None,
        low=lower_bound(floor(loss), samples, tail),
        high=upper_bound(ceil(loss), samples, tail),
        confidence=confidence,
        unit=UNITS[task],
    )


def audit_watermark(database: Database, cohort: CohortAddress) -> int:
    """Return the id of the newest audited sample, or 0 if there is none."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return 0
        return session.scalar(select(func.max(AuditedSampleRow.id)).filter_by(cohort_id=found.id)) or 0


def _span(
    session: Session, cohort_id: int, revision: int | None, after: int, until: int | None
) -> tuple[int, list[ColumnElement[bool]]]:
    """Return K and the conditions that select the audited samples of a span with K exits."""
    conditions = [
        AuditedSampleRow.cohort_id == cohort_id,
        AuditedSampleRow.id > after,
        AuditedSampleRow.counted.is_(True),
    ]
    if revision is not None:
        conditions.append(AuditedSampleRow.revision == revision)
    if until is not None:
        conditions.append(AuditedSampleRow.id <= until)
    exits = _exit_count(
        session, cohort_id, session.scalars(select(AuditedSampleRow.exits).where(*conditions).distinct())
    )
    return exits, [*conditions, AuditedSampleRow.exits == exits]


def _exit_count(session: Session, cohort_id: int, seen: Iterable[int]) -> int:
    """Return the registered number of exits; without a registration, the highest number that a device reported."""
    registration = session.get(RegistrationRow, cohort_id)
    return max(seen, default=0) if registration is None else len(registration.exits)
