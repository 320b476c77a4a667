"""A refit returns a policy that holds the risk, or the reason why it is postponed."""

import numpy as np
from edgeexit_calibration.recalibrate.refit import PostponedRefit, refit

from edgeexit.fitting import Fit
from edgeexit.policies import disagrees, simulate_exits
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.ztw import Ztw
from tests.calibration.scenario import readouts_of
from tests.fitting.new_kind import Scaled

CURRENT = Confidence(temperatures=(1.0, 1.5, 2.0), thresholds=(0.5, 0.5))
GOAL = {"risk": 0.1, "delta": 0.1}
COSTS = (1.0, 2.0, 3.0)


def test_the_refitted_policy_holds_the_risk_on_new_samples():
    fit = refit(CURRENT, readouts_of(2000, trust=0.9), COSTS, **GOAL)
    assert fit.policy.temperatures == CURRENT.temperatures
    assert fit.certificate.risk == 0.1
    assert fit.certificate.upper_bound <= 0.1
    fresh = readouts_of(50_000, trust=0.9, seed=99)
    exits = simulate_exits(fit.policy, fresh)
    assert disagrees(fit.policy, fresh).mean() <= 0.1 < disagrees(CURRENT, fresh).mean()
    assert (exits == 0).any()  # some samples still exit early


def test_too_few_audits_postpone_the_refit_and_the_reason_names_the_number():
    postponed = refit(CURRENT, readouts_of(30), COSTS, **GOAL)
    assert isinstance(postponed, PostponedRefit)
    assert postponed.cause == "too few audits"
    assert "30 audits" in postponed.reason
    assert refit(CURRENT, readouts_of(200), COSTS, **GOAL, min_audits=201).cause == "too few audits"
    assert isinstance(refit(CURRENT, readouts_of(200), COSTS, **GOAL, min_audits=200), Fit)


def test_audits_that_no_policy_fits_postpone_the_refit():
    postponed = refit(CURRENT, readouts_of(300), (3.0, 2.0, 1.0), **GOAL)
    assert postponed.cause == "no policy fits"
    assert "increasing" in postponed.reason


def test_samples_exit_at_exits_that_are_always_wrong_only_as_often_as_the_risk_allows():
    fit = refit(CURRENT, readouts_of(1000, trust=0.0), COSTS, **GOAL)
    fresh = readouts_of(10_000, trust=0.0, seed=5)
    assert np.mean(simulate_exits(fit.policy, fresh) == 2) >= 0.9


def test_a_policy_that_reads_all_probabilities_cannot_be_refitted_from_audits():
    """Audits contain four numbers per exit."""
    current = Ztw(
        temperatures=(1.0,) * 3,
        thresholds=(0.5, 0.5),
        weights=((1.0,), (1.0, 1.0)),
        biases=((0.0,) * 4, (0.0,) * 4),
    )
    postponed = refit(current, readouts_of(1000), COSTS, **GOAL)
    assert isinstance(postponed, PostponedRefit)
    assert postponed.cause == "no policy fits"
    assert "'ztw' reads the probabilities" in postponed.reason
    assert "\n" not in postponed.reason


def test_a_policy_without_a_fitting_kind_can_be_refitted():
    """A refit changes only the thresholds."""
    current = Scaled(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), factors=(0.9, 0.95, 1.0))
    fit = refit(current, readouts_of(2000, trust=0.9), COSTS, **GOAL)
    assert isinstance(fit, Fit)
    assert fit.policy.factors == current.factors
