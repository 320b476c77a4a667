"""Exit mix and disagreement of the current revisions of many cohorts, in a fixed number of queries."""

from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.tables import AuditTotalRow, CohortBucketRow, PolicyRevisionRow, RegistrationRow
from edgeexit_calibration.views.buckets import exits_of
from edgeexit_calibration.views.cohort_views import CohortView
from edgeexit_calibration.views.metrics import CLASSIFICATION, Disagreement, ExitMix, interval, mix_of


def cohort_metrics(session: Session, cohorts: Mapping[int, CohortView]) -> dict[int, tuple[ExitMix, Disagreement]]:
    """Return exit mix and disagreement under the current revision of each cohort; under all if it is not registered."""
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
        measured = interval(*totals.get(key, (0, 0, 0.0)), task=cohort.task or CLASSIFICATION)
        found[key] = (mix_of(packed[key], exits), measured)
    return found


def _totals(session: Session, cohorts: Mapping[int, CohortView]) -> dict[int, tuple[int, int, float]]:
    """Return the numbers of disagreeing and of all audited samples, and the sums of their disagreement."""
    columns = (AuditTotalRow.cohort_id, AuditTotalRow.revision)
    sums = (func.sum(AuditTotalRow.disagreeing), func.sum(AuditTotalRow.samples), func.sum(AuditTotalRow.loss))
    query = select(*columns, *sums).where(AuditTotalRow.cohort_id.in_(cohorts.keys())).group_by(*columns)
    totals: dict[int, tuple[int, int, float]] = {}
    for key, revision, disagreeing, samples, loss in session.execute(query):
        if cohorts[key].revision in (None, revision):
            known = totals.get(key, (0, 0, 0.0))
            totals[key] = (known[0] + int(disagreeing), known[1] + int(samples), known[2] + float(loss))
    return totals
