"""A budget is registered, kept and removed; one that cannot be met or compared with the costs is refused."""

from datetime import datetime, timezone

import pytest
from edgeexit_calibration import cohorts, events, register, status

from edgeexit.bundle import Costs
from edgeexit.errors import FittingError
from tests.calibration.profiles import profile_of
from tests.calibration.recalibrate.watching import ingest, new_watcher
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, report_of, state_of

GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "user": "ada"}
MEASURED = Costs("ms", (1.0, 2.0, 4.0))
NOW = datetime.now(timezone.utc)


def budgets(database, cohort):
    """Return the budget of the cohort, and those of its registrations."""
    logged = [event.details.get("budget_ms") for event in events(database, cohort) if event.kind == "registered"]
    return cohorts(database)[0].budget_ms, logged


def test_a_budget_stays_until_another_one_is_given_or_it_is_removed(database, bundle):
    cohort = register(database, bundle, **GOAL, costs=MEASURED).cohort
    assert budgets(database, cohort) == (None, [None])
    assert register(database, bundle, **GOAL, costs=MEASURED, budget_ms=3).budget_ms == 3
    assert register(database, bundle, **(GOAL | {"risk": 0.02}), costs=MEASURED).budget_ms == 3
    assert register(database, bundle, **GOAL, costs=MEASURED, budget_ms=2.5).budget_ms == 2.5
    assert register(database, bundle, **GOAL, costs=MEASURED, no_budget=True).budget_ms is None
    assert budgets(database, cohort) == (None, [None, 3, 3, 2.5, None])


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_not_a_positive_number_is_refused(database, bundle, budget):
    with pytest.raises(FittingError, match=f"a budget of {budget:g} ms: it must be a positive number"):
        register(database, bundle, **GOAL, costs=MEASURED, budget_ms=budget)
    assert cohorts(database) == []


def test_a_budget_below_the_first_exit_is_refused_and_the_exact_cost_is_not(database, bundle):
    costs = Costs("ms", (1 / 3, 2.0, 4.0))
    with pytest.raises(FittingError, match=r"cannot be met: the first exit alone costs 0\.333334 ms"):
        register(database, bundle, **GOAL, costs=costs, budget_ms=0.3)
    assert register(database, bundle, **GOAL, costs=costs, budget_ms=0.333334).budget_ms == 0.333334


def test_a_budget_needs_costs_in_ms_from_the_bundle_or_from_devices(database, bundle):
    with pytest.raises(
        FittingError, match=r"needs costs in ms, but those of bundle '.*bundle' are multiply-accum.*no pro"
    ):
        register(database, bundle, **GOAL, budget_ms=3)
    invalid = bundle.costs()._replace(rejected=("the machine was busy", "it drifted"))
    with pytest.raises(FittingError, match=r"its profile is invalid \(the machine was busy\).*--force"):
        register(database, bundle, **GOAL, budget_ms=3, costs=invalid)
    assert cohorts(database) == []
    ingest(database, state_of(bundle.digest), profile_of(bundle.digest, (1.5, 2.0, 4.0)), now=NOW)
    with pytest.raises(FittingError, match=r"the first exit alone costs 1\.5 ms in this cohort"):
        register(database, bundle, **GOAL, budget_ms=1.2)
    registered = register(database, bundle, **GOAL, budget_ms=3)
    assert (registered.costs.unit, registered.costs.devices, registered.costs.cumulative) == ("ms", 1, (1.5, 2.0, 4.0))


def test_status_names_the_budget_the_costs_and_a_policy_that_is_over_it(database, bundle):
    register(database, bundle, **GOAL, costs=MEASURED, budget_ms=2)
    ingest(database, state_of(bundle.digest), report_of(bundle.digest, sequence=1, counts=(50, 20, 29)), now=NOW)
    [few] = status(database, now=NOW).cohorts
    assert (few.cohort.budget_ms, few.cohort.costs.cumulative) == (2, (1.0, 2.0, 4.0))
    assert few.mean_cost_ms == pytest.approx((50 + 40 + 116) / 99)
    assert not few.is_over_budget, "too few samples"
    ingest(database, report_of(bundle.digest, sequence=2, counts=(51, 21, 30)), now=NOW)
    found = status(database, now=NOW)
    [over] = [item for item in found.attention if item.kind == "over budget"]
    assert "revision 1 costs 2.09 ms per sample, its budget is 2 ms" in over.text
    assert "edgeexit calibrator explain shop/" in over.advice
    assert status(database, now=NOW, max_cohorts=0).attention_counts["over budget"] == 1
    register(database, bundle, **GOAL, costs=MEASURED, budget_ms=2.1)
    assert "over budget" not in status(database, now=NOW).attention_counts


def test_a_budget_without_costs_in_ms_has_no_effect(database, bundle):
    register(database, bundle, **GOAL, costs=MEASURED, budget_ms=2)
    register(database, bundle, **GOAL)
    watching = new_watcher(database)
    watching.check(now=NOW)
    [watched] = watching._watched.values()
    assert watched.current.rules.budget is None
    assert status(database, now=NOW).cohorts[0].mean_cost_ms is None
