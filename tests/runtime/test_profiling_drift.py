"""Drift: a machine that gets slower is told, noise is not."""

import numpy as np
import pytest

from edgeexit.runtime.profiling.drift import find_drift


def run(slowdown, seed=0, count=1500, noise=0.1):
    """Return latencies that end `slowdown` times as long as they began."""
    generator = np.random.default_rng(seed)
    return np.exp(generator.normal(scale=noise, size=count) + np.linspace(0, np.log(slowdown), count))


@pytest.mark.parametrize("slowdown", [1.3, 0.7])
def test_a_machine_that_changes_its_speed_is_told(slowdown):
    drift = find_drift(run(slowdown))
    assert drift.drifted
    assert drift.ratio == pytest.approx(slowdown**0.75, rel=0.05)  # between the middles of the outer quarters
    assert drift.low < drift.ratio < drift.high


def test_a_change_below_5_percent_is_no_drift_however_sure():
    drift = find_drift(run(1.03, noise=0.001))
    assert drift.low > 1
    assert not drift.drifted


def test_noise_alone_is_hardly_ever_a_drift():
    told = [find_drift(run(1.0, seed=seed)).drifted for seed in range(200)]
    assert sum(told) <= 2


def test_bursts_of_disturbance_are_not_taken_for_a_drift():
    """Some other program runs for a twentieth of the run now and then: neighbours are slow together."""
    told = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        latencies = run(1.0, seed=seed, noise=0.02)
        for start in generator.integers(len(latencies), size=6):
            latencies[start : start + 75] *= 1.35
        told += find_drift(latencies).drifted
    assert told <= 10


def test_a_short_run_says_nothing():
    assert find_drift(run(3.0, count=191)) is None
    assert find_drift(run(3.0, count=192)).drifted


def test_a_part_that_is_slower_than_the_other_is_no_drift():
    drift = find_drift(run(1.0), 1.3 * run(1.0, seed=1))
    assert not drift.drifted
    assert drift.low < 1 < drift.high


def test_what_happens_in_each_part_adds_up_and_a_short_part_says_nothing():
    both, first = find_drift(run(1.2), run(1.2, seed=1)), find_drift(run(1.2), run(3.0, count=191))
    assert both.ratio == pytest.approx(1.2**1.5, rel=0.05)
    assert first == find_drift(run(1.2))
