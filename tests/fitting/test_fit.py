"""Fits of all kinds for all goals, and the errors for goals that cannot be reached."""

import re

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import (
    Budget,
    FitOptions,
    MapLosses,
    MaxDrop,
    MaxRisk,
    ReadoutDataset,
    expect,
    fit_policy,
    fit_thresholds,
)
from edgeexit.policies import KINDS
from edgeexit.policies.voting import Voting
from tests.fitting.populations import COSTS, population

DATASET = population(500, seed=11)
PLAIN = FitOptions(temperatures=False)
REFITTABLE = [kind for kind in KINDS if not KINDS[kind].reads_probabilities]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cost", [1.0, 1.7, 4.0])
def test_the_realised_cost_is_within_the_budget(kind, cost):
    fit = fit_policy(kind, DATASET, Budget(cost=cost), PLAIN)
    assert fit.policy.kind == kind
    assert fit.expected.mean_cost <= cost
    assert fit.expected == expect(fit.policy, DATASET.at(fit.policy.temperatures))


@pytest.mark.parametrize("kind", REFITTABLE)
def test_the_drop_is_within_the_bound_and_saves_cost(kind):
    fit = fit_policy(kind, DATASET, MaxDrop(drop=0.02), PLAIN)
    assert fit.expected.mean_loss <= fit.expected.final_loss + 0.02 + 1e-9
    assert fit.expected.mean_cost < COSTS[-1]


def test_without_labels_losses_are_disagreement():
    fit = fit_policy("confidence", DATASET.without_labels(), MaxDrop(drop=0.05), PLAIN)
    assert fit.expected.final_loss == 0
    assert fit.expected.mean_loss == fit.expected.disagreement <= 0.05


def test_the_error_for_a_budget_below_the_first_exit_states_the_lowest_one():
    with pytest.raises(FittingError, match=r"a mean cost of 0\.5 cannot be reached: the lowest possible is 1$"):
        fit_policy("confidence", DATASET, Budget(cost=0.5))


def test_an_ensemble_can_reach_a_negative_drop_and_the_error_states_the_lowest_one():
    """Three early exits are as accurate as the final one, so their vote is more accurate."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 10, 1000)
    classes = np.where(random.random((1000, 4)) < 0.3, random.integers(0, 10, (1000, 4)), truth[:, None])
    readouts = np.stack([classes, *np.broadcast_to([[[0.8]], [[0.1]], [[0.6]]], (3, 1000, 4))], axis=2)
    dataset = ReadoutDataset(readouts=readouts.astype(np.float32), costs=COSTS, temperatures=(1.0,) * 4, labels=truth)
    fit = fit_policy("voting", dataset, MaxDrop(drop=-0.1), PLAIN)
    assert fit.expected.mean_loss <= fit.expected.final_loss - 0.1 + 1e-9
    with pytest.raises(FittingError, match=r"a drop of -0\.5 cannot be reached: the lowest possible is -0\.") as raised:
        fit_policy("voting", dataset, MaxDrop(drop=-0.5), PLAIN)
    lowest = float(re.search(r"possible is (\S+)", str(raised.value)).group(1))
    fit_policy("voting", dataset, MaxDrop(drop=lowest), PLAIN)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Budget(cost=float("nan")), "budget nan"),
        (Budget(cost=-1.0), "budget -1"),
        (Budget(cost=float("inf")), "budget inf"),
        (MaxDrop(drop=float("nan")), "drop nan"),
        (MaxDrop(drop=2.0), "drop 2"),
        (MaxRisk(risk=float("nan")), "risk nan"),
        (MaxRisk(risk=0.05, delta=1.0), "delta 1"),
    ],
)
def test_a_goal_out_of_range_is_refused_in_one_line(goal, message):
    for fit in (lambda: fit_policy("confidence", DATASET, goal), lambda: fit_thresholds(UNFITTED, DATASET, goal)):
        with pytest.raises(FittingError, match=message) as raised:
            fit()
        assert "\n" not in str(raised.value)


UNFITTED = Voting(temperatures=(1.0,) * 4, thresholds=(None,) * 3)


def segmentation(samples: int, seed: int, *, labels: bool) -> ReadoutDataset:
    """Return a segmentation dataset: fractions of pixels that decrease with the confidence and depth of an exit."""
    random = np.random.default_rng(seed)
    confidence = np.sort(1 - 0.6 * random.random((samples, 3)) ** 2, axis=1)
    confidence[:, -1] = 1
    disagreement = ((1 - confidence) * random.random((samples, 3))).astype(np.float32)
    errors = np.clip(disagreement + 0.1 * random.random((samples, 1)), 0, 1).astype(np.float32)
    zeros = np.zeros_like(confidence)
    return ReadoutDataset(
        readouts=np.stack([zeros, confidence, 1 - confidence, zeros], axis=2).astype(np.float32),
        costs=(1.0, 2.0, 3.0),
        temperatures=(1.0,) * 3,
        maps=MapLosses(disagreement=disagreement, errors=errors if labels else None),
    )


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("goal", [Budget(cost=1.8), MaxDrop(drop=0.02), MaxRisk(risk=0.05)])
def test_segmentation_can_be_fitted_for_every_goal(goal, labels):
    dataset = segmentation(1000, 0, labels=labels)
    fit = fit_policy("confidence", dataset, goal, PLAIN)
    fresh = expect(fit.policy, segmentation(50_000, 1, labels=labels))
    assert 1 < fresh.mean_cost < 2.5
    if isinstance(goal, Budget):
        assert fit.expected.mean_cost <= 1.8
    elif isinstance(goal, MaxDrop):
        assert fit.expected.mean_loss <= fit.expected.final_loss + 0.02 + 1e-9
        assert fresh.mean_loss <= fresh.final_loss + 0.03
    else:
        assert fresh.disagreement <= 0.05
        assert fit.certificate.observed < fit.certificate.upper_bound <= 0.05
        assert "betting" in fit.certificate.method


def test_the_number_of_samples_in_the_error_suffices_for_segmentation():
    dataset = segmentation(400, 2, labels=False)
    goal = MaxRisk(risk=0.05)
    with pytest.raises(FittingError, match="at least") as raised:
        fit_policy("confidence", dataset.take(np.arange(60)), goal, PLAIN)
    needed = int(re.search(r"at least (\d+)", str(raised.value)).group(1))
    assert fit_policy("confidence", dataset.take(np.arange(needed)), goal, PLAIN).certificate


def test_the_same_inputs_give_the_same_policy():
    goal = Budget(cost=2.0)
    assert fit_policy("beem", DATASET, goal) == fit_policy("beem", msgspec.structs.replace(DATASET), goal)
