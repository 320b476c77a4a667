"""Fitting under a stated risk: the certificate holds, and what cannot be certified is said."""

import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import fit_kind, fit_max_risk, lower_bound, make_template, samples_needed, upper_bound
from edgeexit.fitting.max_risk import _halves
from edgeexit.policies import disagrees, exit_rates, simulate_exits
from edgeexit.policies.readout import Array

COSTS = (1.0, 2.0, 3.0, 4.0)


def sample_readouts(samples: int, seed: int) -> Array:
    """Draw inputs of varying difficulty, seen more sharply by deeper exits."""
    random = np.random.default_rng(seed)
    classes, exits = 10, 4
    truth, difficulty = random.integers(0, classes, samples), random.exponential(1, samples) + 0.3
    logits = 0.7 * random.normal(size=(samples, exits, classes))
    for k in range(exits):
        logits[np.arange(samples), k, truth] += (2 + 2 * k) / difficulty
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ordered = np.sort(p, axis=-1)
    columns = [p.argmax(-1), ordered[..., -1], ordered[..., -2], -(p * np.log(p)).sum(-1)]
    return np.stack(columns, axis=-1).astype(np.float32)


POPULATION = sample_readouts(40_000, seed=99)


@pytest.mark.parametrize("kind", ["confidence", "beem"])
def test_a_fit_saves_cost_and_keeps_its_bound_on_new_samples(kind):
    readouts = sample_readouts(3000, seed=1)
    fit = fit_max_risk(make_template(kind, readouts, None), readouts, COSTS, risk=0.05, delta=0.1)
    assert fit.policy.kind == kind
    assert fit.mean_cost < 0.6 * COSTS[-1]
    assert fit.certificate.upper_bound <= 0.05
    assert disagrees(POPULATION, simulate_exits(fit.policy, POPULATION)).mean() <= 0.05
    predicted = np.array(fit.certificate.exit_rates)
    assert np.abs(predicted - exit_rates(simulate_exits(fit.policy, POPULATION), 4)).max() < 0.05


def test_the_bound_fails_no_more_often_than_stated():
    """Over 200 draws of fitting data, at most a share delta of the policies breaks the bound (with test slack)."""
    broken = 0
    for seed in range(200):
        readouts = sample_readouts(300, seed=seed)
        fit = fit_max_risk(make_template("confidence", readouts, None), readouts, COSTS, risk=0.05, delta=0.1)
        broken += disagrees(POPULATION, simulate_exits(fit.policy, POPULATION)).mean() > 0.05
    assert broken <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5


def test_too_few_samples_say_how_many_are_needed():
    readouts = sample_readouts(60, seed=0)
    assert samples_needed(0.05, 0.1) == 90
    with pytest.raises(FittingError, match="at least 90 are needed"):
        fit_max_risk(make_template("beem", readouts, None), readouts, COSTS, risk=0.05, delta=0.1)


@pytest.mark.parametrize("kind", ["confidence", "beem"])
def test_a_single_sample_is_too_few_and_not_a_crash(kind):
    with pytest.raises(FittingError, match="1 samples cannot certify"):
        fit_kind(kind, sample_readouts(1, seed=0), None, COSTS, risk=0.05, delta=0.1)


def test_readouts_that_are_not_finite_name_the_exit():
    readouts = sample_readouts(200, seed=0)
    template = make_template("confidence", readouts, None)
    readouts[7, 2, 1] = np.nan
    with pytest.raises(FittingError, match="exit 2"):
        fit_max_risk(template, readouts, COSTS, risk=0.05, delta=0.1)


@pytest.mark.parametrize("costs", [(1.0, 2.0, 3.0), (1.0, 3.0, 2.0, 4.0), (0.0, 1.0, 2.0, 3.0)])
def test_costs_must_increase_one_an_exit(costs):
    readouts = sample_readouts(200, seed=0)
    with pytest.raises(FittingError, match="costs"):
        fit_max_risk(make_template("confidence", readouts, None), readouts, costs, risk=0.05, delta=0.1)


def test_an_unknown_kind_lists_those_there_are():
    with pytest.raises(FittingError, match="beem, confidence"):
        make_template("psychic", sample_readouts(10, seed=0), None)


def test_beem_weights_are_accuracies():
    readouts = sample_readouts(500, seed=3)
    truth = readouts[:, -1, 0].astype(np.int64)
    weights = make_template("beem", readouts, truth).weights  # type: ignore[union-attr]
    assert weights[-1] == 1.0
    assert list(weights) == sorted(weights)


def test_the_certifying_half_chooses_nothing():
    """BEEM's weights come from the choosing half alone: other labels in the certifying half change nothing."""
    readouts = sample_readouts(600, seed=5)
    truth = readouts[:, -1, 0].astype(np.int64)
    _, certifying = _halves(600, seed=0)
    changed = truth.copy()
    changed[certifying] = (changed[certifying] + 1) % 10
    fits = [fit_kind("beem", readouts, labels, COSTS, risk=0.05, delta=0.1) for labels in (truth, changed)]
    assert fits[0] == fits[1]


def test_clopper_pearson_brackets_the_truth():
    """For 0 of 45 the bound is the rule 1 - delta^(1/n); the interval holds the observed share."""
    assert upper_bound(0, 45, 0.1) == pytest.approx(1 - 0.1 ** (1 / 45))
    assert lower_bound(5, 100, 0.05) < 0.05 < upper_bound(5, 100, 0.05)
    assert lower_bound(0, 10, 0.1) == 0
    assert upper_bound(10, 10, 0.1) == 1
