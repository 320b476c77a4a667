"""Evaluation and profile: figures that follow from what was run."""

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset
from edgeexit.errors import PolicyError
from edgeexit.policies import simulate
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.voting import Voting
from edgeexit.runtime import FULL_MODEL, Runner, evaluate, profile_bundle, record
from tests.bundles import make_bundle, make_samples
from tests.recorded_progress import RecordedProgress

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.6, 0.7))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("measuring") / "bundle")


def test_the_whole_model_agrees_with_itself_and_an_early_policy_less(bundle):
    inputs = make_samples(200)
    with Runner(bundle) as runner:
        readouts = record(runner, Dataset(inputs=inputs)).readouts
        dataset = Dataset(inputs=inputs, labels=readouts[:, -1, 0].astype(np.int64))
        progress = RecordedProgress()
        results = evaluate(runner, dataset, {"early": POLICY}, progress=progress)
    assert list(results) == [FULL_MODEL, "early"]
    assert (progress.done, progress.total) == (200, 200)
    whole, early = results.values()
    assert whole.agreement.value == whole.accuracy.value == 1
    assert [rate.value for rate in whole.exit_rates] == [0, 0, 1]
    assert whole.speedup.value == whole.layer_speedup.value == 1
    assert early.accuracy == early.agreement
    assert early.agreement.low < early.agreement.value < early.agreement.high < 1
    assert early.samples == 200
    rates = [rate.value for rate in early.exit_rates]
    assert rates[0] > 0
    assert early.layer_speedup.value == pytest.approx(3 / (rates[0] + 2 * rates[1] + 3 * rates[2]))
    assert early.layer_speedup.low < early.layer_speedup.value < early.layer_speedup.high
    assert early.speedup.value == pytest.approx(whole.latency.mean_ms.value / early.latency.mean_ms.value)
    for figure in (early.latency.mean_ms, early.latency.p50_ms, early.latency.p90_ms, early.speedup):
        assert figure.low <= figure.value <= figure.high
    assert early.latency.p99_ms is None


def test_what_a_vote_answers_is_what_counts(bundle):
    """Three exits vote: the mode of the first two is the second's class, and with a share of 1/2 all leave there."""
    inputs = make_samples(100)
    policy = Voting(temperatures=(1.0,) * 3, thresholds=(None, 0.5))
    with Runner(bundle) as runner:
        readouts = record(runner, Dataset(inputs=inputs)).readouts
        predictions = simulate(policy, readouts).predictions
        found = evaluate(runner, Dataset(inputs=inputs, labels=predictions[:, 1]), {"voting": policy})["voting"]
    assert found.exit_rates[1].value == 1
    assert found.accuracy.value == 1
    assert found.agreement.value == pytest.approx(np.mean(predictions[:, 1] == readouts[:, -1, 0]))


def test_few_samples_and_no_labels_leave_gaps(bundle):
    with Runner(bundle) as runner:
        found = evaluate(runner, Dataset(inputs=make_samples(63)), {"early": POLICY})["early"]
    assert found.accuracy is None
    assert found.latency.p90_ms is None
    assert found.latency.p50_ms.value > 0


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Confidence(temperatures=(1.0,) * 2, thresholds=(0.5,)), "for 2 exits, the bundle has 3"),
        (Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=5), "for 5 classes, the bundle has 4"),
    ],
)
def test_a_policy_of_another_model_is_refused_before_the_work(bundle, policy, words):
    progress = RecordedProgress()
    with Runner(bundle) as runner, pytest.raises(PolicyError, match=words):
        evaluate(runner, Dataset(inputs=make_samples(5)), {"other": policy}, progress=progress)
    assert progress.done == 0


def test_a_profile_measures_every_stage_and_the_mix(bundle):
    profile = profile_bundle(bundle, policy=POLICY, dataset=Dataset(inputs=make_samples(50)), seconds=0.2)
    assert [stage.name for stage in profile.stages] == ["stage0", "stage1", "stage2"]
    assert list(profile.cumulative_ms) == sorted(profile.cumulative_ms)
    assert profile.exit_rates is not None
    assert sum(profile.exit_rates) == pytest.approx(1)
    assert len(profile.stages[0].raw_us) <= 1000
    bundle.write_profile(profile)
    assert Bundle.open(bundle.path).profile() == profile
