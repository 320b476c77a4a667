"""Fitting under a stated risk: the certificate holds, and what cannot be certified is said."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import FitOptions, MaxRisk, fit_policy, lower_bound, samples_needed, upper_bound
from edgeexit.fitting.certify import halves
from edgeexit.fitting.risk import betting_upper_bound
from edgeexit.policies import KINDS, disagrees, exit_rates, simulate_exits
from tests.fitting.populations import COSTS, population

GOAL = MaxRisk(risk=0.05, delta=0.1)
POPULATION = population(40_000, seed=99).readouts


@pytest.mark.parametrize("kind", ["confidence", "beem"])
def test_a_fit_saves_cost_and_keeps_its_bound_on_new_samples(kind):
    fit = fit_policy(kind, population(3000, seed=1, labels=False), GOAL, FitOptions(temperatures=False))
    assert fit.policy.kind == kind
    assert fit.expected.mean_cost < 0.6 * COSTS[-1]
    assert fit.certificate.upper_bound <= 0.05
    assert disagrees(fit.policy, POPULATION).mean() <= 0.05
    predicted = np.array(fit.certificate.exit_rates)
    assert np.abs(predicted - exit_rates(simulate_exits(fit.policy, POPULATION), 4)).max() < 0.05


def test_the_bound_fails_no_more_often_than_stated():
    """Over 200 draws of fitting data, at most a share delta of the policies breaks the bound (with test slack)."""
    broken = 0
    for seed in range(200):
        fit = fit_policy("confidence", population(300, seed=seed, labels=False), GOAL, FitOptions(temperatures=False))
        broken += disagrees(fit.policy, POPULATION).mean() > 0.05
    assert broken <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5


def test_too_few_samples_say_how_many_are_needed():
    assert samples_needed(0.05, 0.1) == 90
    with pytest.raises(FittingError, match="at least 90 are needed"):
        fit_policy("beem", population(60, seed=0), GOAL)


@pytest.mark.parametrize("kind", ["confidence", "beem"])
def test_a_single_sample_is_too_few_and_not_a_crash(kind):
    with pytest.raises(FittingError, match="1 samples cannot certify"):
        fit_policy(kind, population(1, seed=0), GOAL)


def test_readouts_that_are_not_finite_name_the_exit():
    dataset = population(200, seed=0)
    dataset.readouts[7, 2, 1] = np.nan
    with pytest.raises(FittingError, match="exit 2"):
        fit_policy("confidence", dataset, GOAL)


@pytest.mark.parametrize("costs", [(1.0, 3.0, 2.0, 4.0), (0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, np.inf)])
def test_costs_must_increase_one_an_exit(costs):
    with pytest.raises(FittingError, match="costs"):
        fit_policy("confidence", msgspec.structs.replace(population(200, seed=0), costs=costs), GOAL)


def test_an_unknown_kind_lists_those_there_are():
    with pytest.raises(FittingError, match="policy kind 'psychic' is unknown; known kinds: confidence, "):
        fit_policy("psychic", population(200, seed=0), GOAL)


def test_the_certifying_half_chooses_nothing():
    """BEEM's weights come from the choosing half alone: other labels in the certifying half change nothing."""
    dataset = population(600, seed=5)
    _, certifying = halves(600, seed=0)
    changed = dataset.labels.copy()
    changed[certifying] = (changed[certifying] + 1) % 10
    fits = [
        fit_policy("beem", msgspec.structs.replace(dataset, labels=labels), GOAL)
        for labels in (dataset.labels, changed)
    ]
    assert fits[0].policy == fits[1].policy


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_place_on_the_path_is_chosen_without_the_certifying_half(kind):
    """Other readouts and labels there may certify other thresholds; weights and temperatures stay, of every kind."""
    dataset, other = population(200, seed=5, classes=4, sharpness=3.0), population(200, seed=6, classes=4)
    choosing, _ = halves(200, seed=0)
    readouts, labels = other.readouts.copy(), other.labels.copy()
    readouts[choosing], labels[choosing] = dataset.readouts[choosing], dataset.labels[choosing]
    changed = msgspec.structs.replace(dataset, readouts=readouts, labels=labels)
    fits = [fit_policy(kind, each, MaxRisk(risk=0.15)) for each in (dataset, changed)]
    bare = [msgspec.structs.replace(fit.policy, thresholds=(None,) * 3) for fit in fits]
    assert bare[0] == bare[1]
    assert fits[0].certificate != fits[1].certificate


def test_clopper_pearson_brackets_the_truth():
    """For 0 of 45 the bound is the rule 1 - delta^(1/n); the interval holds the observed share."""
    assert upper_bound(0, 45, 0.1) == pytest.approx(1 - 0.1 ** (1 / 45))
    assert lower_bound(5, 100, 0.05) < 0.05 < upper_bound(5, 100, 0.05)
    assert lower_bound(0, 10, 0.1) == 0
    assert upper_bound(10, 10, 0.1) == 1


def test_clopper_pearson_covers_the_truth():
    """Over 200 draws the bound lies below the true probability no more often than stated (with test slack)."""
    random = np.random.default_rng(0)
    for truth in (0.02, 0.3):
        below = sum(upper_bound(int(random.binomial(150, truth)), 150, 0.1) < truth for _ in range(200))
        assert below <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("draw", ["shares", "zero or one", "constant"])
def test_betting_covers_the_truth(draw):
    random = np.random.default_rng(1)
    below, bounds = 0, []
    for _ in range(200):
        if draw == "shares":
            losses, truth = random.beta(0.5, 4.5, 150), 0.1
        elif draw == "zero or one":
            losses, truth = (random.random(150) < 0.1).astype(float), 0.1
        else:
            losses, truth = np.full(150, 0.1), 0.1
        bounds.append(betting_upper_bound(losses, 0.1))
        below += bounds[-1] < truth
    assert below <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5
    hoeffding = 0.1 + (np.log(10) / 300) ** 0.5
    assert np.mean(bounds) < hoeffding


def test_betting_at_its_ends():
    assert betting_upper_bound(np.ones(20), 0.1) == 1
    assert betting_upper_bound(np.zeros(1), 0.1) == 1
    clean = betting_upper_bound(np.zeros(200), 0.1)
    assert 1 - 0.1 ** (1 / 200) <= clean < 0.02
    needed = samples_needed(0.05, 0.1, fractions=True)
    assert betting_upper_bound(np.zeros(needed // 2), 0.1) <= 0.05 < betting_upper_bound(np.zeros(needed // 2 - 1), 0.1)
