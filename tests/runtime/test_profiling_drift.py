"""Drift detection: it reports a machine that becomes slower or faster, and ignores noise."""

import numpy as np
import pytest

from edgeexit.runtime.profiling.drift import find_drift


def run(slowdown, seed=0, count=1500, noise=0.1):
    """Return latencies that are `slowdown` times as long at the end as at the start."""
    generator = np.random.default_rng(seed)
    return np.exp(generator.normal(scale=noise, size=count) + np.linspace(0, np.log(slowdown), count))


@pytest.mark.parametrize("slowdown", [1.3, 0.7])
def test_a_change_of_speed_is_a_drift(slowdown):
    drift = find_drift(run(slowdown))
    assert drift.drifted
    # The quarters are compared, whose middles are three quarters of the run apart.
    assert drift.ratio == pytest.approx(slowdown**0.75, rel=0.05)
    assert drift.low < drift.ratio < drift.high


def test_a_significant_change_below_5_percent_is_not_a_drift():
    drift = find_drift(run(1.03, noise=0.001))
    assert drift.low > 1
    assert not drift.drifted


def test_noise_alone_is_rarely_a_drift():
    drifted = [find_drift(run(1.0, seed=seed)).drifted for seed in range(200)]
    assert sum(drifted) <= 2


def test_bursts_of_disturbance_are_rarely_a_drift():
    """Another program runs several times for a twentieth of the run, so neighbouring samples are slow together."""
    drifted = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        latencies = run(1.0, seed=seed, noise=0.02)
        for start in generator.integers(len(latencies), size=6):
            latencies[start : start + 75] *= 1.35
        drifted += find_drift(latencies).drifted
    assert drifted <= 10


def test_a_short_run_has_no_result():
    assert find_drift(run(3.0, count=191)) is None
    assert find_drift(run(3.0, count=192)).drifted


def test_a_phase_that_is_slower_than_the_other_is_not_a_drift():
    drift = find_drift(run(1.0), 1.3 * run(1.0, seed=1))
    assert not drift.drifted
    assert drift.low < 1 < drift.high


def test_the_drifts_of_the_phases_are_multiplied_and_a_short_phase_is_left_out():
    both, first = find_drift(run(1.2), run(1.2, seed=1)), find_drift(run(1.2), run(3.0, count=191))
    assert both.ratio == pytest.approx(1.2**1.5, rel=0.05)
    assert first == find_drift(run(1.2))
