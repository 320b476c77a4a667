"""The bounds that a user sets: the calibrator never leaves them by itself, and still steps back after an alarm."""

import msgspec
import numpy as np
from edgeexit_calibration import PolicyBounds, events, policy_history, set_bounds
from edgeexit_calibration.recalibrate.guarantee import within_bounds

from edgeexit.policies import exit_rates, simulate_exits
from tests.calibration.recalibrate.test_guarantee import BOLD, EASY, FULL_DEPTH, HARD, RULES, audits_from, run
from tests.calibration.recalibrate.watching import (
    NOW,
    check_all,
    event_kinds,
    ingest,
    new_watcher,
    newest_policy,
    revisions,
)
from tests.calibration.scenario import COHORT, audits_of, readouts_of

SAMPLES = EASY.draw(50_000, np.random.default_rng(99))


def final_exits(policy, readouts=SAMPLES):
    """Return the fraction of samples that reach the final exit."""
    return exit_rates(simulate_exits(policy, readouts), policy.exits)[-1]


def current_audits(database, bundle, cohort, count, **options):
    """Return audits of devices that have the current policy."""
    policy, revision = newest_policy(database, cohort), revisions(database, cohort)[-1]
    return audits_of(bundle, count, policy=policy, revision=revision, first_sequence=100, **options)


def history_of(audits):
    return lambda first, last, limit: audits.part(max(first - 1, last - limit, 0), last)


def test_a_policy_becomes_bolder_only_as_far_as_enough_samples_reach_the_final_exit():
    audits = audits_from((EASY, 5000))
    free, _ = run(audits)
    bound = final_exits(free.policy) + 0.2
    state, changes = run(audits, rules=msgspec.structs.replace(RULES, min_final_exits=bound))
    assert changes
    for _, change in changes:
        assert final_exits(change.policy) >= bound - 0.05
    assert final_exits(state.policy) < bound + 0.1  # the bound is used


def test_a_frozen_policy_changes_after_an_alarm_only():
    frozen = msgspec.structs.replace(RULES, frozen=True)
    assert run(audits_from((EASY, 3000)), rules=frozen)[1] == []
    assert [change.kind for _, change in run(audits_from((HARD, 3000)), policy=BOLD, rules=frozen)[1]] == [
        "stepped back"
    ]


def test_a_policy_outside_new_bounds_is_replaced_by_the_boldest_certified_one_inside():
    audits = audits_from((EASY, 5000))
    state, _ = run(audits)
    bound = final_exits(state.policy) + 0.2
    inside, change = within_bounds(state, history_of(audits), msgspec.structs.replace(RULES, min_final_exits=bound))
    assert change.kind == "within bounds"
    assert bound - 0.05 < final_exits(inside.policy) < bound + 0.1
    assert change.policy == inside.policy
    assert change.cost > change.cost_before
    assert EASY.risk(inside.policy.thresholds) <= RULES.risk
    assert change.certificate.upper_bound <= RULES.risk
    rules = msgspec.structs.replace(RULES, min_final_exits=bound)
    assert within_bounds(inside, history_of(audits), rules) == (inside, None)


def test_without_a_certified_policy_inside_the_bounds_full_depth_follows():
    audits = audits_from((EASY, 5000))
    state, _ = run(audits)
    _, change = within_bounds(state, history_of(audits), msgspec.structs.replace(RULES, min_final_exits=1.0))
    assert change.policy == FULL_DEPTH
    assert (change.certificate.method, change.certificate.observed) == ("full depth", 0)


def test_a_frozen_policy_stays_also_outside_other_bounds():
    audits = audits_from((EASY, 5000))
    state, _ = run(audits)
    rules = msgspec.structs.replace(RULES, min_final_exits=1.0, frozen=True)
    assert within_bounds(state, history_of(audits), rules) == (state, None)


def test_new_bounds_take_effect_at_the_next_check_and_when_they_are_removed(database, bundle, cohort):
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 600, seed=11))
    check_all(watching)
    assert revisions(database, cohort) == [1]
    shipped = final_exits(newest_policy(database, cohort), readouts_of(5000, seed=5))
    set_bounds(database, COHORT, PolicyBounds(min_final_exits=shipped + 0.2), user="ada", now=NOW)
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered", "bounds set", "within bounds"]
    newest = policy_history(database, cohort)[-1]
    assert newest.reason.startswith("within the bounds: at least ")
    assert final_exits(newest_policy(database, cohort), readouts_of(5000, seed=5)) > shipped + 0.1
    check_all(new_watcher(database))
    assert revisions(database, cohort) == [1, 2]
    set_bounds(database, COHORT, PolicyBounds(), user="ada", now=NOW)
    ingest(database, *current_audits(database, bundle, cohort, 1500, seed=12))
    check_all(watching)
    assert event_kinds(database, cohort)[3:5] == ["bounds set", "bolder"]
    assert [event.actor for event in events(database, cohort) if event.kind == "bounds set"] == ["ada", "ada"]


def test_the_changes_of_a_day_of_a_cohort_replace_those_of_the_service(database, bundle, cohort):
    watching = new_watcher(database)
    set_bounds(database, COHORT, PolicyBounds(max_changes_per_day=1), user="ada", now=NOW)
    check_all(watching)
    ingest(database, *audits_of(bundle, 800, trust=0.5, seed=8))
    check_all(watching)
    ingest(database, *current_audits(database, bundle, cohort, 3000, trust=0.5, seed=9))
    check_all(watching)
    assert event_kinds(database, cohort).count("bolder") == 1


def test_a_frozen_cohort_steps_back_and_stays_there(database, bundle, cohort):
    watching = new_watcher(database)
    set_bounds(database, COHORT, PolicyBounds(frozen=True), user="ada", now=NOW)
    check_all(watching)
    ingest(database, *audits_of(bundle, 800, trust=0.5, seed=8))
    check_all(watching)
    ingest(database, *current_audits(database, bundle, cohort, 2000, seed=9))
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered", "bounds set", "risk exceeded", "stepped back"]
