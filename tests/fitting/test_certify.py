"""Fits for a risk: the certificate holds, and the errors if nothing can be certified."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import FitOptions, MaxRisk, ReadoutDataset, fit_policy, samples_needed
from edgeexit.fitting.splits import choosing_and_certifying
from edgeexit.policies import KINDS, disagrees, exit_rates, simulate_exits
from tests.fitting.populations import COSTS, population

GOAL = MaxRisk(risk=0.05, delta=0.1)


POPULATION = population(40_000, seed=99).readouts


@pytest.mark.parametrize("kind", ["confidence", "beem"])
def test_a_fit_saves_cost_and_its_bound_holds_on_new_samples(kind):
    fit = fit_policy(kind, population(3000, seed=1, labels=False), GOAL, FitOptions(temperatures=False))
    assert fit.policy.kind == kind
    assert fit.expected.mean_cost < 0.6 * COSTS[-1]
    assert fit.certificate.upper_bound <= 0.05
    assert disagrees(fit.policy, POPULATION).mean() <= 0.05
    predicted = np.array(fit.certificate.exit_rates)
    assert np.abs(predicted - exit_rates(simulate_exits(fit.policy, POPULATION), 4)).max() < 0.05


def test_the_bound_fails_at_most_as_often_as_delta_states():
    """For 200 random datasets, at most a fraction delta of the policies violates the bound (plus 3 standard errors)."""
    violated = 0
    for seed in range(200):
        fit = fit_policy("confidence", population(300, seed=seed, labels=False), GOAL, FitOptions(temperatures=False))
        violated += disagrees(fit.policy, POPULATION).mean() > 0.05
    assert violated <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5


def test_the_error_for_too_few_samples_states_how_many_are_needed():
    assert samples_needed(0.05, 0.1) == 67
    assert samples_needed(0.01, 0.1) == 344
    with pytest.raises(FittingError, match="at least 67 are needed"):
        fit_policy("beem", population(60, seed=0), GOAL)


@pytest.mark.parametrize("kind", ["confidence", "beem"])
def test_a_single_sample_is_refused(kind):
    with pytest.raises(FittingError, match="1 samples cannot certify"):
        fit_policy(kind, population(1, seed=0), GOAL)


def test_the_error_for_readouts_that_are_not_finite_names_the_exit():
    dataset = population(200, seed=0)
    dataset.readouts[7, 2, 1] = np.nan
    with pytest.raises(FittingError, match="exit 2"):
        fit_policy("confidence", dataset, GOAL)


@pytest.mark.parametrize("costs", [(1.0, 3.0, 2.0, 4.0), (0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, np.inf)])
def test_costs_must_increase_from_exit_to_exit(costs):
    with pytest.raises(FittingError, match="costs"):
        fit_policy("confidence", msgspec.structs.replace(population(200, seed=0), costs=costs), GOAL)


def test_the_error_for_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(FittingError, match="policy kind 'psychic' is unknown; known kinds: confidence, "):
        fit_policy("psychic", population(200, seed=0), GOAL)


def test_the_weights_do_not_depend_on_the_certifying_samples():
    """BEEM's weights are computed on the choosing samples: other labels of the certifying samples change nothing."""
    dataset = population(600, seed=5)
    _, certifying = choosing_and_certifying(600, seed=0)
    changed = dataset.labels.copy()
    changed[certifying] = (changed[certifying] + 1) % 10
    fits = [
        fit_policy("beem", msgspec.structs.replace(dataset, labels=labels), GOAL)
        for labels in (dataset.labels, changed)
    ]
    assert fits[0].policy == fits[1].policy


@pytest.mark.parametrize("kind", KINDS)
def test_everything_but_the_position_on_the_path_is_chosen_without_the_certifying_samples(kind):
    """Other logits and labels there can certify other thresholds; weights and temperatures stay the same."""
    dataset, other = population(200, seed=5, classes=4, sharpness=3.0), population(200, seed=6, classes=4)
    choosing, _ = choosing_and_certifying(200, seed=0)
    logits, labels = other.logits.array.copy(), other.labels.copy()
    logits[choosing], labels[choosing] = dataset.logits.array[choosing], dataset.labels[choosing]
    changed = ReadoutDataset.from_logits(logits, costs=dataset.costs, labels=labels)
    fits = [fit_policy(kind, each, MaxRisk(risk=0.15)) for each in (dataset, changed)]
    bare = [msgspec.structs.replace(fit.policy, thresholds=(None,) * 3) for fit in fits]
    assert bare[0] == bare[1]
    assert fits[0].certificate != fits[1].certificate
