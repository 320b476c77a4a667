"""What `explain` says of a budget: whether it is met, and which audits are missing."""

import pytest
from edgeexit_calibration import explain, register
from edgeexit_calibration.recalibrate.budget_state import PointUnderTest, budget_state

from edgeexit.bundle import Costs
from tests.calibration.recalibrate.watching import GOAL, NOW, check_all, event_kinds, ingest, new_watcher
from tests.calibration.scenario import COHORT, audits_of, state_of

POINTS = [PointUnderTest(10.0, 0), PointUnderTest(6.0, 0), PointUnderTest(4.0, 300), PointUnderTest(2.0, None)]


def test_a_budget_that_is_not_met_names_the_audits_of_the_first_policy_that_would_meet_it():
    found = budget_state(5.0, 6.0, POINTS)
    assert (found.is_met, found.cost_ms, found.audits_missing, found.lowest_ms) == (False, 6.0, 300, 2.0)
    assert budget_state(6.5, 7.0, POINTS).audits_missing == 0
    assert budget_state(4.1, 6.0, POINTS).audits_missing is None, "4 ms is not within 3 % of 4.1 ms"
    assert budget_state(3.0, 6.0, POINTS).audits_missing is None, "it would exceed the risk"


def test_a_budget_that_is_met_misses_nothing():
    found = budget_state(5.0, 5.0, POINTS)
    assert (found.is_met, found.audits_missing) == (True, None)


def test_without_a_cost_nothing_is_known():
    found = budget_state(5.0, None, [])
    assert (found.budget_ms, found.cost_ms, found.is_met, found.lowest_ms) == (5.0, None, None, None)


def test_a_cohort_meets_its_budget_as_audits_arrive_and_uses_what_is_left_of_it(database, bundle):
    costs = Costs("ms", (1.0, 5.0, 10.0))
    cohort = register(database, bundle, cohort=COHORT, **GOAL, costs=costs, budget_ms=9.0).cohort
    watching = new_watcher(database)
    check_all(watching)
    before = explain(database, cohort, now=NOW)
    assert (before.costs.cumulative, before.costs.devices) == (costs.cumulative, 0)
    assert (before.budget.budget_ms, before.budget.is_met) == (9.0, None)
    ingest(database, state_of(bundle.digest))
    for number in range(8):
        ingest(database, *audits_of(bundle, 500, first_sequence=5 * number, seed=20 + number))
        check_all(watching)
    found = explain(database, cohort, now=NOW)
    assert event_kinds(database, cohort)[-1] == "safer"
    assert found.budget.is_met
    assert found.budget.cost_ms == pytest.approx(10 * found.cost)
    assert 0.75 * 9 < found.budget.cost_ms <= 9, "the safest policy within the budget, not the cheapest one"
    assert found.bolder is None
    register(database, bundle, cohort=COHORT, **GOAL, costs=costs, budget_ms=1.1)
    over = explain(database, cohort, now=NOW)
    assert over.budget.is_met is False
    assert over.bolder is not None
