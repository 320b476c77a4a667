"""Exit mix, disagreement and accuracy of the current revisions of many cohorts, in a fixed number of queries."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.tables import AuditTotalRow, CohortBucketRow, PolicyRevisionRow, RegistrationRow
from edgeexit_calibration.views.buckets import exits_of
from edgeexit_calibration.views.cohort_views import CohortView
from edgeexit_calibration.views.metrics import (
    CLASSIFICATION,
    Accuracy,
    Disagreement,
    ExitMix,
    accuracy_of,
    interval,
    mix_of,
)

_COUNTS: Final = ("disagreeing", "samples", "loss", "labelled", "correct", "final_correct")


class CohortMetrics(NamedTuple):
    """The metrics of a cohort under one revision, or under all."""

    exit_mix: ExitMix
    disagreement: Disagreement
    accuracy: Accuracy


def cohort_metrics(session: Session, cohorts: Mapping[int, CohortView]) -> dict[int, CohortMetrics]:
    """Return the metrics of the current revision of each cohort; of all revisions if it is not registered."""
    packed: dict[int, list[bytes]] = {key: [] for key in cohorts}
    current = (
        select(PolicyRevisionRow.revision)
        .where(PolicyRevisionRow.cohort_id == RegistrationRow.cohort_id)
        .order_by(PolicyRevisionRow.revision.desc())
        .limit(1)
        .scalar_subquery()
    )
    registered = [key for key, cohort in cohorts.items() if cohort.revision is not None]
    columns = (CohortBucketRow.cohort_id, CohortBucketRow.counts)
    of_current = select(*columns).select_from(RegistrationRow).where(RegistrationRow.cohort_id.in_(registered))
    of_current = of_current.join(
        CohortBucketRow,
        (CohortBucketRow.cohort_id == RegistrationRow.cohort_id) & (CohortBucketRow.revision == current),
    )
    of_all = select(*columns).where(CohortBucketRow.cohort_id.in_(cohorts.keys() - registered))
    for query in (of_current, of_all):
        for key, counts in session.execute(query):
            packed[key].append(counts)
    totals = _totals(session, cohorts)
    found = {}
    for key, cohort in cohorts.items():
        exits = exits_of(packed[key]) if cohort.exits is None else len(cohort.exits)
        disagreeing, samples, loss, *of_labels = totals.get(key, (0,) * len(_COUNTS))
        measured = interval(int(disagreeing), int(samples), loss, task=cohort.task or CLASSIFICATION)
        found[key] = CohortMetrics(mix_of(packed[key], exits), measured, accuracy_of(*map(int, of_labels)))
    return found


def _totals(session: Session, cohorts: Mapping[int, CohortView]) -> dict[int, tuple[float, ...]]:
    """Return the sums of the columns `_COUNTS`."""
    columns = (AuditTotalRow.cohort_id, AuditTotalRow.revision)
    sums = [func.sum(getattr(AuditTotalRow, name)) for name in _COUNTS]
    query = select(*columns, *sums).where(AuditTotalRow.cohort_id.in_(cohorts.keys())).group_by(*columns)
    totals: dict[int, tuple[float, ...]] = {}
    for key, revision, *counts in session.execute(query):
        if cohorts[key].revision in (None, revision):
            known = totals.get(key, (0,) * len(counts))
            totals[key] = tuple(one + float(other) for one, other in zip(known, counts, strict=True))
    return totals
