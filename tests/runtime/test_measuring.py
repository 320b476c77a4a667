"""Evaluation and profile: figures that follow from what was run."""

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset
from edgeexit.latency import BIN_COUNT, bin_centre_ms, bin_of, summarise
from edgeexit.policies import Confidence
from edgeexit.runtime import Runner, evaluate, full_depth, profile_bundle, record
from tests.bundles import make_bundle, make_samples

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.6, 0.7))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("measuring") / "bundle")


def test_the_whole_model_agrees_with_itself_and_an_early_policy_less(bundle):
    inputs = make_samples(200)
    with Runner(bundle) as runner:
        final = record(runner, Dataset(inputs=inputs)).readouts[:, -1, 0].astype(np.int64)
        dataset = Dataset(inputs=inputs, labels=final)
        results = evaluate(runner, dataset, {"whole": full_depth(POLICY), "early": POLICY})
    assert results["whole"].agreement == results["whole"].accuracy == 1
    assert results["whole"].exit_rates == (0, 0, 1)
    assert results["early"].accuracy == results["early"].agreement < 1
    assert results["early"].exit_rates[0] > 0
    assert results["early"].latency.samples == 200


def test_a_profile_measures_every_stage_and_the_mix(bundle):
    profile = profile_bundle(bundle, policy=POLICY, dataset=Dataset(inputs=make_samples(50)), seconds=0.2)
    assert [stage.name for stage in profile.stages] == ["stage0", "stage1", "stage2"]
    assert list(profile.cumulative_ms) == sorted(profile.cumulative_ms)
    assert profile.exit_rates is not None
    assert sum(profile.exit_rates) == pytest.approx(1)
    assert len(profile.stages[0].raw_us) <= 1000
    bundle.write_profile(profile)
    assert Bundle.open(bundle.path).profile() == profile


def test_percentiles_need_enough_samples():
    assert summarise([1.0] * 63).p90_ms is None
    assert summarise([1.0] * 64).p90_ms == 1.0
    assert summarise([1.0] * 661).p99_ms is None
    assert summarise([1.0] * 662).p99_ms == 1.0


def test_latency_bins_are_half_octaves_with_open_ends():
    latencies = np.array([0.0, 0.01, 1.0, 1.5, 1e9])
    bins = bin_of(latencies)
    assert bins[0] == bins[1] == 0
    assert bins[3] == bins[2] + 1
    assert bins[-1] == BIN_COUNT - 1
    assert bin_of(np.array([bin_centre_ms(k) for k in range(BIN_COUNT)])).tolist() == list(range(BIN_COUNT))
