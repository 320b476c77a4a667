"""Summaries of latencies: histogram bins, and percentiles by MLPerf LoadGen's early-stopping estimate."""

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from edgeexit.latency import (
    BIN_COUNT,
    ExitPath,
    LatencyProfile,
    StageProfile,
    bin_centre_ms,
    bin_of,
    estimate_percentile,
    overlatency_allowed,
    summarise,
)


def min_passing(allowed, percent):
    """Return LoadGen's h of t by its definition: the minimum h with P(Binomial(h + t, 1 - p) <= t) <= 1 - 0.99."""
    h = 1
    while binom.cdf(allowed, h + allowed, 1 - percent / 100) > 0.01:
        h += 1
    return h


@pytest.mark.parametrize(
    ("percent", "allowed"), [(90, 1), (90, 2), (90, 3), (90, 10), (90, 40), (50, 1), (50, 7), (97, 5), (99, 1), (99, 4)]
)
def test_the_allowed_overlatency_equals_loadgen_s(percent, allowed):
    samples = min_passing(allowed, percent) + allowed
    assert overlatency_allowed(samples, percent) == allowed
    assert overlatency_allowed(samples - 1, percent) == allowed - 1


@pytest.mark.parametrize("percent", [50, 90, 99])
@pytest.mark.parametrize("samples", [1000, 12_345, 100_000, 1_000_000])
def test_the_allowed_overlatency_follows_the_binomial_distribution_for_many_samples(percent, samples):
    allowed = overlatency_allowed(samples, percent)
    assert binom.cdf(allowed, samples, 1 - percent / 100) <= 0.01
    assert binom.cdf(allowed + 1, samples, 1 - percent / 100) > 0.01


@pytest.mark.parametrize(("percent", "minimum"), [(90, 64), (99, 662)])
def test_below_loadgen_s_minimum_there_is_no_percentile(percent, minimum):
    values = np.arange(minimum, dtype=np.float64)
    assert estimate_percentile(values[:-1], percent) is None
    assert estimate_percentile(values, percent) == minimum - 1  # the highest value
    assert estimate_percentile(values[:1], percent) is None


def test_a_summary_has_the_percentiles_for_which_there_are_enough_samples():
    assert summarise([1.0] * 63).p90_ms is None
    assert summarise([1.0] * 64).p90_ms == 1.0
    assert summarise([1.0] * 661).p99_ms is None
    assert summarise([1.0] * 662).p99_ms == 1.0
    one = summarise([2.5])
    assert (one.samples, one.mean_ms, one.p50_ms, one.p90_ms) == (1, 2.5, 2.5, None)


def test_the_estimate_lies_above_the_plain_percentile_and_approaches_it():
    values = np.random.default_rng(0).lognormal(size=200_000)
    few, many = (
        estimate_percentile(values[:count], 99) / np.percentile(values[:count], 99) for count in (700, 200_000)
    )
    assert few > many > 1
    assert many < 1.02


def test_the_true_percentile_is_rarely_above_the_estimate():
    """With 99 % confidence, about 20 of 2000 estimates are too low; more than 35 are improbable."""
    runs = np.random.default_rng(1).exponential(size=(2000, 700))
    truth = -np.log(0.01)
    too_low = sum(estimate_percentile(run, 99) < truth for run in runs)
    assert too_low <= 35


def test_the_order_does_not_matter_and_the_samples_are_not_changed():
    values = np.random.default_rng(2).random(1000)
    before = values.copy()
    assert summarise(values) == summarise(np.sort(values))
    assert (values == before).all()


def test_latency_bins_are_half_octaves_with_open_ends():
    latencies = np.array([0.0, 0.01, 1.0, 1.5, 1e9])
    bins = bin_of(latencies)
    assert bins[0] == bins[1] == 0
    assert bins[3] == bins[2] + 1
    assert bins[-1] == BIN_COUNT - 1
    assert bin_of(np.array([bin_centre_ms(k) for k in range(BIN_COUNT)])).tolist() == list(range(BIN_COUNT))


def profile_of(*latencies_ms, **changes):
    stages = tuple(StageProfile(name=f"s{k}", latency=summarise(values)) for k, values in enumerate(latencies_ms))
    return LatencyProfile(
        bundle="0" * 64, machine="m", runtime="r", threads=1, batch=1, cold_load_ms=1, first_run_ms=1, stages=stages,
        **changes,
    )  # fmt: skip


SUSPENDED = [1.0] * 999 + [60_000.0]
"""A machine that was suspended for a minute in one of a thousand inferences."""


@pytest.mark.parametrize(
    ("latencies", "percentile"),
    [
        (SUSPENDED, "p99"),
        ([1.0] * 200 + [500.0], "p90"),  # too few for a p99
        ([1.0] * 1000, None),
        ([1.0] * 990 + [5.0] * 10, None),
        ([1.0] * 20 + [1000.0], None),  # too few for any percentile
    ],
)
def test_a_mean_above_the_highest_percentile_makes_a_profile_invalid_wherever_it_comes_from(latencies, percentile):
    made = profile_of([1.0] * 1000, latencies)
    read = msgspec.json.decode(msgspec.json.encode(made), type=LatencyProfile)
    assert read == made
    assert msgspec.structs.replace(read, invalid=()).invalid == made.invalid
    if percentile is None:
        assert made.invalid == ()
    else:
        [reason] = made.invalid
        assert f"stage 's1': the mean, {np.mean(latencies):.3g} ms, is above the {percentile}, 1 ms" in reason


def test_the_reasons_of_the_machine_come_first_and_the_whole_inference_counts_too():
    found = profile_of([1.0] * 700, end_to_end=summarise(SUSPENDED), invalid=("too hot",)).invalid
    assert found[0] == "too hot"
    assert found[1].startswith("end to end: the mean, 61 ms")
    assert len(found) == 2


def test_a_few_samples_that_take_a_deep_exit_do_not_make_a_profile_invalid():
    """One in 24 samples takes an exit that costs a hundred times as much."""
    shallow, deep = summarise([1.0] * 230), summarise([100.0] * 10)
    both = summarise([1.0] * 230 + [100.0] * 10)
    assert both.mean_ms > both.p90_ms
    paths = tuple(
        ExitPath(exit=name, latency=latency, stages_ms=(1.0,), decisions_ms=0, overhead_ms=0)
        for name, latency in (("e0", shallow), ("e1", deep))
    )
    assert profile_of([1.0] * 700, end_to_end=both, paths=paths).invalid == ()
    outlier = msgspec.structs.replace(paths[0], latency=summarise([1.0] * 230 + [900.0]))
    [reason] = profile_of([1.0] * 700, end_to_end=both, paths=(outlier, paths[1])).invalid
    assert reason.startswith("samples that exit at 'e0': the mean")
