"""Nested thresholds from full depth to a bold policy, with and without samples."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest

from edgeexit.fitting import FitOptions, MaxRisk, fit_policy
from edgeexit.fitting.path import conservative_path, path_of_scores, threshold_path
from edgeexit.fitting.replay import replay
from edgeexit.policies import KINDS, exits_of, simulate_exits
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.patience import Patience
from tests.fitting.populations import COSTS, population

FULL_DEPTH = (None, None, None)
UNFITTED = Confidence(temperatures=(1.0,) * 4, thresholds=FULL_DEPTH)
FITTED = {
    kind: fit_policy(kind, population(600, seed=1), MaxRisk(risk=0.1), FitOptions(temperatures=False)).policy
    for kind in KINDS
    if not KINDS[kind].reads_probabilities
}


def exits_along(policy, path, readouts):
    return [simulate_exits(msgspec.structs.replace(policy, thresholds=thresholds), readouts) for thresholds in path]


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("max_points", [2, 24, 64])
def test_the_path_on_samples_is_strictly_nested_from_full_depth_to_the_lowest_cost(kind, max_points):
    policy, dataset = FITTED[kind], msgspec.structs.replace(population(300, seed=2), logits=None)
    path = threshold_path(policy, dataset, max_points=max_points)
    assert len(path) <= max_points
    assert path[0] == FULL_DEPTH
    exits = exits_along(policy, path, dataset.readouts)
    for before, after in pairwise(exits):
        assert (after <= before).all()
        assert (after < before).any()
    assert np.array(COSTS)[exits[-1]].mean() <= 2  # patience needs two exits


def test_the_path_does_not_depend_on_the_thresholds_of_the_policy():
    dataset = population(200, seed=3)
    assert threshold_path(UNFITTED, dataset) == threshold_path(FITTED["confidence"], dataset)


@pytest.mark.parametrize("kind", ["ztw", "eenet"])
def test_the_path_of_a_policy_that_reads_all_probabilities_follows_from_its_scores(kind):
    policy = fit_policy(kind, population(600, seed=1), MaxRisk(risk=0.1), FitOptions(temperatures=False)).policy
    dataset = population(300, seed=2)
    scores, predictions = replay(policy, dataset)
    path = path_of_scores(scores, predictions != predictions[:, -1:], COSTS, max_points=24)
    assert 2 < len(path) <= 24
    assert path[0] == FULL_DEPTH
    for before, after in pairwise([exits_of(scores, thresholds) for thresholds in path]):
        assert (after <= before).all()
        assert (after < before).any()
    assert path == threshold_path(policy, dataset, max_points=24)


@pytest.mark.parametrize("samples", [2, 3, 10])
def test_a_few_samples_have_a_path(samples):
    path = threshold_path(UNFITTED, population(samples, seed=4))
    assert path[0] == FULL_DEPTH
    assert len(path) > 1


def test_samples_that_cannot_exit_early_have_full_depth_only():
    dataset = population(20, seed=5)
    dataset.readouts[:, :-1] = np.nan
    assert threshold_path(UNFITTED, dataset) == (FULL_DEPTH,)


@pytest.mark.parametrize("kind", FITTED)
def test_the_path_without_samples_is_nested_from_full_depth_to_the_policy(kind):
    policy = FITTED[kind]
    path = conservative_path(policy, points=24)
    assert path[0] == FULL_DEPTH
    assert path[-1] == policy.thresholds
    assert len(path) == len(set(path)) <= 24
    exits = exits_along(policy, path, population(2000, seed=6).readouts)
    assert all((after <= before).all() for before, after in pairwise(exits))


def test_the_path_without_samples_halves_the_gap_to_the_score_limit_step_by_step():
    policy = Confidence(temperatures=(1.0,) * 4, thresholds=(0.9, None, 0.5))
    first, *steps = conservative_path(policy, points=14)
    assert first == FULL_DEPTH
    gaps = [1 - first_exit for first_exit, _, _ in steps]
    assert gaps == pytest.approx([0.1 / 2**n for n in range(12, -1, -1)])
    assert [third for _, _, third in steps] == pytest.approx([1 - 5 * gap for gap in gaps])
    assert {second for _, second, _ in steps} == {None}


def test_the_path_without_samples_has_two_entries_where_no_threshold_has_a_gap():
    policy = Patience(temperatures=(1.0,) * 4, thresholds=(None, 1.0, 5.0))
    assert conservative_path(policy) == (FULL_DEPTH, policy.thresholds)
    assert conservative_path(UNFITTED) == (FULL_DEPTH,)
    assert conservative_path(FITTED["confidence"], points=2) == (FULL_DEPTH, FITTED["confidence"].thresholds)
