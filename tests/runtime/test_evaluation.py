"""Evaluation: accuracy, agreement, exit rates, speed-up and latency of policies on a bundle."""

import numpy as np
import pytest

from edgeexit.datasets import Dataset
from edgeexit.errors import PolicyError
from edgeexit.policies import simulate
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.voting import Voting
from edgeexit.runtime import FULL_MODEL, Runner, evaluate, record
from tests.bundles import make_bundle, make_samples
from tests.recorded_progress import RecordedProgress

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.6, 0.7))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("measuring") / "bundle")


def test_the_full_model_agrees_with_itself_and_an_early_policy_agrees_less(bundle):
    inputs = make_samples(200)
    with Runner(bundle) as runner:
        readouts = record(runner, Dataset(inputs=inputs)).readouts
        dataset = Dataset(inputs=inputs, labels=readouts[:, -1, 0].astype(np.int64))
        progress = RecordedProgress()
        results = evaluate(runner, dataset, {"early": POLICY}, progress=progress)
    assert list(results) == [FULL_MODEL, "early"]
    assert (progress.done, progress.total) == (200, 200)
    full_model, early = results.values()
    assert full_model.agreement.value == full_model.accuracy.value == 1
    assert [rate.value for rate in full_model.exit_rates] == [0, 0, 1]
    assert full_model.speedup.value == full_model.layer_speedup.value == 1
    assert early.accuracy == early.agreement
    assert early.agreement.low < early.agreement.value < early.agreement.high < 1
    assert early.samples == 200
    rates = [rate.value for rate in early.exit_rates]
    assert rates[0] > 0
    assert early.layer_speedup.value == pytest.approx(3 / (rates[0] + 2 * rates[1] + 3 * rates[2]))
    assert early.layer_speedup.low < early.layer_speedup.value < early.layer_speedup.high
    assert early.speedup.value == pytest.approx(full_model.latency.mean_ms.value / early.latency.mean_ms.value)
    for figure in (early.latency.mean_ms, early.latency.p50_ms, early.latency.p90_ms, early.speedup):
        assert figure.low <= figure.value <= figure.high
    assert early.latency.p99_ms is None


def test_a_voting_policy_is_evaluated_on_the_result_of_the_vote(bundle):
    """With two votes the second exit's class wins, and with a threshold of 1/2 every sample exits there."""
    inputs = make_samples(100)
    policy = Voting(temperatures=(1.0,) * 3, thresholds=(None, 0.5))
    with Runner(bundle) as runner:
        readouts = record(runner, Dataset(inputs=inputs)).readouts
        predictions = simulate(policy, readouts).predictions
        found = evaluate(runner, Dataset(inputs=inputs, labels=predictions[:, 1]), {"voting": policy})["voting"]
    assert found.exit_rates[1].value == 1
    assert found.accuracy.value == 1
    assert found.agreement.value == pytest.approx(np.mean(predictions[:, 1] == readouts[:, -1, 0]))


def test_values_that_need_labels_or_more_samples_are_none(bundle):
    with Runner(bundle) as runner:
        found = evaluate(runner, Dataset(inputs=make_samples(63)), {"early": POLICY})["early"]
    assert found.accuracy is None
    assert found.latency.p90_ms is None
    assert found.latency.p50_ms.value > 0


def test_no_policy_may_have_the_name_of_the_reference(bundle):
    with Runner(bundle) as runner, pytest.raises(PolicyError, match="no policy may be named 'full model'"):
        evaluate(runner, Dataset(inputs=make_samples(5)), {FULL_MODEL: POLICY})


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Confidence(temperatures=(1.0,) * 2, thresholds=(0.5,)), "for 2 exits, the bundle has 3"),
        (Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=5), "for 5 classes, the bundle has 4"),
    ],
)
def test_a_policy_for_another_model_is_refused_before_any_sample_is_counted(bundle, policy, words):
    progress = RecordedProgress()
    with Runner(bundle) as runner, pytest.raises(PolicyError, match=words):
        evaluate(runner, Dataset(inputs=make_samples(5)), {"other": policy}, progress=progress)
    assert progress.done == 0
