"""From audits to the next policy: one that keeps the goal, or a reason to wait."""

import numpy as np
from edgeexit_calibration.recalibrate import Hold, refit

from edgeexit.fitting import Fit
from edgeexit.policies import disagrees, simulate_exits
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.ztw import Ztw
from tests.calibration.scenario import readouts_of

CURRENT = Confidence(temperatures=(1.0, 1.5, 2.0), thresholds=(0.5, 0.5))
GOAL = {"risk": 0.1, "delta": 0.1}
COSTS = (1.0, 2.0, 3.0)


def test_the_next_policy_keeps_the_goal_on_new_samples():
    fit = refit(CURRENT, readouts_of(2000, trust=0.9), COSTS, **GOAL)
    assert fit.policy.temperatures == CURRENT.temperatures
    assert fit.certificate.risk == 0.1
    assert fit.certificate.upper_bound <= 0.1
    fresh = readouts_of(50_000, trust=0.9, seed=99)
    exits = simulate_exits(fit.policy, fresh)
    assert disagrees(fit.policy, fresh).mean() <= 0.1 < disagrees(CURRENT, fresh).mean()
    assert (exits == 0).any()  # and is not just full depth


def test_too_few_audits_hold_and_say_how_many_are_missing():
    held = refit(CURRENT, readouts_of(30), COSTS, **GOAL)
    assert isinstance(held, Hold)
    assert held.cause == "too few audits"
    assert "30 audits" in held.reason
    assert refit(CURRENT, readouts_of(200), COSTS, **GOAL, min_audits=201).cause == "too few audits"
    assert isinstance(refit(CURRENT, readouts_of(200), COSTS, **GOAL, min_audits=200), Fit)


def test_audits_that_no_policy_can_be_fitted_to_hold():
    held = refit(CURRENT, readouts_of(300), (3.0, 2.0, 1.0), **GOAL)
    assert held.cause == "no policy fits"
    assert "increasing" in held.reason


def test_exits_that_cannot_be_trusted_at_all_go_to_full_depth_as_far_as_the_risk_asks():
    fit = refit(CURRENT, readouts_of(1000, trust=0.0), COSTS, **GOAL)
    fresh = readouts_of(10_000, trust=0.0, seed=5)
    assert np.mean(simulate_exits(fit.policy, fresh) == 2) >= 0.9


def test_a_policy_that_reads_all_probabilities_cannot_be_refitted_on_audits_and_says_so():
    """Audits hold four numbers an exit."""
    current = Ztw(
        temperatures=(1.0,) * 3,
        thresholds=(0.5, 0.5),
        weights=((1.0,), (1.0, 1.0)),
        biases=((0.0,) * 4, (0.0,) * 4),
    )
    held = refit(current, readouts_of(1000), COSTS, **GOAL)
    assert isinstance(held, Hold)
    assert held.cause == "no policy fits"
    assert "'ztw' reads the probabilities" in held.reason
    assert "\n" not in held.reason
