"""How well a cohort's policies do: exit mix, latency and disagreement, over revisions and spans of audits.

A span is (after, until] of watermarks: `audit_watermark` taken at some moment cuts what came before from what comes
later.
"""

from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from edgeexit.fitting import lower_bound, upper_bound
from edgeexit.latency import bin_centre_ms
from edgeexit.wire import messages
from edgeexit_calibration.cohorts import CohortAddress, find_cohort
from edgeexit_calibration.database import Database
from edgeexit_calibration.tables import AuditedSample, Registration, Report


class ExitMix(msgspec.Struct, frozen=True, kw_only=True):
    """How many samples left at each exit."""

    samples: int
    counts: tuple[int, ...]
    """[K]; empty where nothing is known."""
    mean_latency_ms: float | None = None
    """From half-octave bins, so within some 20 %; null where it was not measured."""

    @property
    def rates(self) -> tuple[float, ...] | None:
        """[K] shares, or None without samples."""
        return tuple(count / self.samples for count in self.counts) if self.samples else None


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """The share of audited samples whose answer was not the final exit's, with its Clopper-Pearson interval."""

    samples: int
    disagreeing: int
    observed: float | None
    """null without samples."""
    low: float
    high: float
    confidence: float


def exit_mix(database: Database, cohort: CohortAddress, *, revision: int | None = None) -> ExitMix:
    """Return the exit mix and latency of all samples under a revision (None: all), from the newest reports."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return ExitMix(samples=0, counts=())
        query = select(Report.content).filter_by(cohort_id=found.id)
        if revision is not None:
            query = query.filter_by(revision=revision)
        reports = [msgspec.json.decode(content, type=messages.Report) for content in session.scalars(query)]
        exits = _exit_count(session, found.id, (len(report.exits) for report in reports))
    counts, latency_ms, measured = [0] * exits, 0.0, 0
    for report in reports:
        if len(report.exits) != exits:
            continue
        for k, counters in enumerate(report.exits):
            counts[k] += counters.exited
            measured += sum(counters.latency)
            latency_ms += sum(count * bin_centre_ms(index) for index, count in enumerate(counters.latency))
    return ExitMix(
        samples=sum(counts), counts=tuple(counts), mean_latency_ms=latency_ms / measured if measured else None
    )


def audited_exit_mix(
    database: Database,
    cohort: CohortAddress,
    *,
    revision: int | None = None,
    after: int = 0,
    until: int | None = None,
) -> ExitMix:
    """Return the exit mix of audited samples in the span (after, until] of watermarks; unbiased, no latency."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return ExitMix(samples=0, counts=())
        exits, span = _span(session, found.id, revision, after, until)
        query = select(AuditedSample.exit, func.count()).where(*span)
        found_counts = {row[0]: row[1] for row in session.execute(query.group_by(AuditedSample.exit))}
    counts = tuple(found_counts.get(k, 0) for k in range(exits))
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
    """Return how often audited samples in the span (after, until] of watermarks left with another answer."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        samples = failures = 0
        if found is not None:
            _, span = _span(session, found.id, revision, after, until)
            query = select(AuditedSample.disagrees, func.count()).where(*span).group_by(AuditedSample.disagrees)
            counts = {row[0]: row[1] for row in session.execute(query)}
            failures, samples = counts.get(True, 0), sum(counts.values())
    tail = (1 - confidence) / 2
    return Disagreement(
        samples=samples,
        disagreeing=failures,
        observed=failures / samples if samples else None,
        low=lower_bound(failures, samples, tail),
        high=upper_bound(failures, samples, tail),
        confidence=confidence,
    )


def audit_watermark(database: Database, cohort: CohortAddress) -> int:
    """Return the newest audited sample's id, 0 before the first: what comes later is `after` it."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return 0
        return session.scalar(select(func.max(AuditedSample.id)).filter_by(cohort_id=found.id)) or 0


def _span(
    session: Session, cohort_id: int, revision: int | None, after: int, until: int | None
) -> tuple[int, list[ColumnElement[bool]]]:
    """Return K, and what selects the audited samples of a span that have as many exits."""
    conditions = [AuditedSample.cohort_id == cohort_id, AuditedSample.id > after]
    if revision is not None:
        conditions.append(AuditedSample.revision == revision)
    if until is not None:
        conditions.append(AuditedSample.id <= until)
    exits = _exit_count(session, cohort_id, session.scalars(select(AuditedSample.exits).where(*conditions).distinct()))
    return exits, [*conditions, AuditedSample.exits == exits]


def _exit_count(session: Session, cohort_id: int, seen: Iterable[int]) -> int:
    """Return K as registered; without a registration, the most that a device told."""
    asked = session.get(Registration, cohort_id)
    return max(seen, default=0) if asked is None else len(asked.exits)
