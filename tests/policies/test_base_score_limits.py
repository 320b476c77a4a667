"""The highest possible scores of all kinds, and exits whose threshold is above them."""

import msgspec
import numpy as np
import pytest
from hypothesis import given

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.readout import P1, Array
from tests.policies.policy_examples import EXITS, as_read, kinds, make_policy, make_readouts, seeds

CLASSES = 4


def corner_cases(classes: int) -> Array:
    """Return readouts [C + 1, K, 4 + C]: all exits certain of one class, for each class; and all exits uniform."""
    p = np.vstack([np.eye(classes), np.full(classes, 1 / classes)])
    columns = [p.argmax(axis=1), *np.sort(p, axis=1)[:, -1:-3:-1].T, [0] * classes + [np.log(classes)]]
    rows = np.column_stack([*columns, p]).astype(np.float32)
    return np.repeat(rows[:, None], EXITS, axis=1)


@given(kind=kinds, seed=seeds)
def test_no_score_is_above_its_limit(kind, seed):
    policy = make_policy(kind, seed=seed)
    readouts = np.concatenate([make_readouts(200, seed=seed), corner_cases(CLASSES)])
    scores = simulate(policy, as_read(policy, readouts)).scores
    assert (scores.max(axis=0) <= np.array(policy.score_limits) + 1e-5).all()
    assert policy.score_limit == max(policy.score_limits) > 0


@pytest.mark.parametrize("kind", ["confidence", "entropy", "margin", "patience", "voting", "beem", "pcee", "ztw"])
def test_the_limit_can_be_reached(kind):
    """A threshold at the limit is reached, so its exit is reachable."""
    policy = make_policy(kind, seed=1)
    readouts = np.concatenate([make_readouts(2000, seed=1), corner_cases(CLASSES)])
    if kind == "pcee":  # its best bin can be below 1 / C, where no top-1 probability is
        readouts[:, :, P1] = np.linspace(0, 1, len(readouts))[:, None]
    best = simulate(policy, as_read(policy, readouts)).scores.max(axis=0)
    np.testing.assert_allclose(best, policy.score_limits, rtol=1e-5)


@given(kind=kinds, seed=seeds)
def test_an_exit_is_unreachable_if_its_threshold_is_above_the_limit(kind, seed):
    policy = make_policy(kind, seed=seed)
    readouts = as_read(policy, np.concatenate([make_readouts(50, seed=seed), corner_cases(CLASSES)]))
    reached = simulate(policy, readouts).scores.max(axis=0)[:-1]
    reachable = msgspec.structs.replace(policy, thresholds=tuple(map(float, reached)))
    assert reachable.unreachable_exits == ()
    above = tuple(limit * 1.001 + 0.001 for limit in policy.score_limits[:-1])
    assert msgspec.structs.replace(policy, thresholds=above).unreachable_exits == tuple(range(EXITS - 1))
    assert msgspec.structs.replace(policy, thresholds=(None, above[1], None, above[3])).unreachable_exits == (1, 3)


def test_a_threshold_beyond_float32_is_unreachable_and_gives_no_numpy_warning(recwarn):
    policy = make_policy("confidence", exits=2, thresholds=(1e300,))
    assert policy.unreachable_exits == (0,)
    assert simulate_exits(policy, np.ones((1, 2, 4), dtype=np.float32)).tolist() == [1]
    assert not recwarn


def test_limits_of_patience_and_of_an_ensemble_with_low_weights():
    assert make_policy("patience").score_limits == (0, 1, 2, 3, 4)
    weak = make_policy("ztw", exits=2, thresholds=(0.9,), weights=((0.01,),), biases=((0.0,) * CLASSES,))
    assert weak.score_limits[0] == pytest.approx(1 / (1 + 3 * np.exp(-0.8733654)))
    assert weak.unreachable_exits == (0,)
