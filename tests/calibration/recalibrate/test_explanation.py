"""What `explain` reports of a cohort: the policy in force, its cost, the audits that are missing, the alarm."""

from datetime import timedelta

import numpy as np
import pytest
from edgeexit_calibration import CohortAddress, ExplanationError, explain, policy_history

from edgeexit.policies import exit_rates, simulate_exits
from tests.calibration.recalibrate.watching import (
    NOW,
    current_audits,
    ingest,
    new_watcher,
    newest_policy,
    revisions,
)
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, audits_of, readouts_of, state_of


def explained(database, cohort, *, now=NOW):
    return explain(database, cohort, now=now)


def test_a_cohort_that_is_not_registered_is_an_error_that_names_the_command(database, bundle):
    ingest(database, state_of(bundle.digest))
    for address in (CohortAddress(FLEET, bundle.digest, COHORT), CohortAddress(FLEET, bundle.digest, "other")):
        with pytest.raises(ExplanationError, match=r"is not registered.*edgeexit calibrator register"):
            explained(database, address)


def test_a_cohort_that_was_not_checked_yet_is_an_error_that_names_the_service(database, cohort):
    with pytest.raises(ExplanationError, match=r"has not checked cohort .*shop/.*/cameras.* yet.*calibrator run"):
        explained(database, cohort)


def test_without_audits_nothing_is_known_of_the_cost_and_of_bolder_policies(database, cohort):
    new_watcher(database).check(now=NOW)
    found = explained(database, cohort)
    assert (found.risk, found.delta, found.policy.revision, found.policy.reason) == (RISK, DELTA, 1, "registered")
    assert (found.audits, found.cost, found.exit_rates, found.bolder) == (0, None, None, None)
    assert found.audits_per_hour is None
    assert found.hours(100) is None


def test_cost_and_exit_mix_are_those_of_the_policy_in_force_on_the_audits_since_the_state_began(
    database, bundle, cohort
):
    new_watcher(database).check(now=NOW)
    ingest(database, *audits_of(bundle, 600, seed=11))  # explain uses them although the calibrator has not
    found = explained(database, cohort)
    policy = newest_policy(database, cohort)
    exits = simulate_exits(policy, readouts_of(600, seed=11))
    costs = np.array(bundle.costs().cumulative)
    assert found.audits == 600
    assert found.exit_rates == pytest.approx(exit_rates(exits, 3))
    assert found.cost == pytest.approx(costs[exits].mean() / costs[-1])


def test_the_rate_is_that_of_the_newest_audits_until_now(database, bundle, cohort):
    new_watcher(database).check(now=NOW)
    ingest(database, *audits_of(bundle, 100, seed=11), now=NOW)
    ingest(database, *audits_of(bundle, 100, seed=12, first_sequence=50), now=NOW + timedelta(minutes=30))
    found = explained(database, cohort, now=NOW + timedelta(hours=2))
    assert found.audits_per_hour == pytest.approx(100)
    assert found.hours(50) == pytest.approx(0.5)


def test_an_alarm_that_the_calibrator_has_not_answered_is_reported_and_then_the_step_back(database, bundle, cohort):
    watching = new_watcher(database)
    watching.check(now=NOW)
    ingest(database, *audits_of(bundle, 300, seed=11))
    watching.check(now=NOW)
    quiet = explained(database, cohort)
    assert not quiet.alarm_raised
    assert quiet.raised_risk == pytest.approx(2 * RISK)
    ingest(database, *audits_of(bundle, quiet.alarm_within, trust=0.5, first_sequence=50, seed=12))
    assert explained(database, cohort).alarm_raised
    assert revisions(database, cohort) == [1], "explain must not change the cohort"
    while len(revisions(database, cohort)) == 1:
        watching.check(now=NOW)
    changes = [policy.reason.partition(":")[0] for policy in policy_history(database, cohort)]
    assert changes[1] == "stepped back"
    found = explained(database, cohort)
    assert [policy.reason for policy in found.changes] == [one.reason for one in policy_history(database, cohort)[-5:]]
    assert found.epoch == quiet.epoch + 1


def test_full_depth_needs_no_alarm_and_the_missing_audits_are_about_those_that_make_it_bolder(database, bundle, cohort):
    watching = new_watcher(database)
    watching.check(now=NOW)
    audits = iter(audits_of(bundle, 1000, trust=0.6, seed=12, size=10))
    while revisions(database, cohort) == [1]:
        ingest(database, next(audits))
        watching.check(now=NOW)
    audits = iter(current_audits(database, cohort, bundle, 4000, trust=0.6, seed=13, size=10, first_sequence=500))
    back = explained(database, cohort)
    assert back.cost == pytest.approx(1)
    assert back.alarm_within is None
    assert 0 < back.bolder.audits_missing < 1000
    assert back.bolder.cost < 1
    used = 0
    while revisions(database, cohort) == [1, 2]:
        ingest(database, next(audits))
        watching.check(now=NOW)
        used += 10
    assert used <= 3 * back.bolder.audits_missing + 50
    found = explained(database, cohort)
    assert found.policy.reason.startswith("bolder")
    assert found.alarm_within > 0
