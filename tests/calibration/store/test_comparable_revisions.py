"""Which revisions have audits that show what the samples do under a policy."""

from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration.store.cohorts import (
    CohortAddress,
    add_revision,
    comparable_revisions,
    find_or_add_cohort,
    locked_cohort,
)

from tests.policies.policy_examples import make_policy

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
OTHER = {"temperatures": (1.0, 2.0, 1.0), "thresholds": (0.25, None)}


def comparable(database, policies, policy):
    """Register policies as the revisions 1, 2 ... of a cohort; return the revisions that are comparable with one."""
    with database.writing() as session:
        cohort_id = find_or_add_cohort(session, CohortAddress("shop", "f" * 64, "cameras")).id
        for one in policies:
            cohort = locked_cohort(session, cohort_id)
            add_revision(session, cohort, one, None, max_latency=None, reason="registered", created_by="test", now=NOW)
        return comparable_revisions(session, cohort_id, policy)


def changed(policy, *fields):
    return msgspec.structs.replace(policy, **{field: OTHER[field] for field in fields})


@pytest.mark.parametrize("kind", ["ztw", "eenet"])
def test_scores_depend_on_all_parameters_but_the_thresholds(database, kind):
    policy = make_policy(kind, exits=3)
    others = [
        changed(policy, "thresholds"),
        changed(policy, "temperatures"),
        make_policy(kind, exits=3, seed=1),
        make_policy("confidence", exits=3),
    ]
    assert comparable(database, [policy, *others], policy) == [1, 2]


def test_readouts_depend_on_the_temperatures_only(database):
    policy = make_policy("beem", exits=3)
    others = [make_policy("beem", exits=3, seed=1), make_policy("ztw", exits=3), changed(policy, "temperatures")]
    assert comparable(database, [policy, *others], policy) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["ztw", "confidence"])
def test_the_policy_of_the_bundle_is_comparable_if_all_revisions_are(database, kind):
    policy = make_policy(kind, exits=3)
    assert comparable(database, [policy, changed(policy, "thresholds")], policy) == [0, 1, 2]
