"""Inference of a single sample, which uses faster code than a batch and gives the same results."""

import time

import numpy as np
import pytest

from edgeexit.policies import KINDS
from edgeexit.runtime import Runner
from tests.bundles import INPUT, make_bundle, make_samples
from tests.runtime.policies_of_every_kind import policies_on

SAMPLES = 24


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with Runner(make_bundle(tmp_path_factory.mktemp("single") / "bundle", exits=4)) as opened:
        yield opened


@pytest.fixture(scope="module")
def inputs():
    return make_samples(SAMPLES, seed=3)


@pytest.fixture(scope="module")
def policies(runner, inputs):
    return policies_on(runner.infer_every_exit(inputs, probabilities=True).readouts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_sample_has_the_same_result_as_in_a_batch(runner, inputs, policies, kind):
    together = runner.infer(inputs, policy=policies[kind])
    alone = [runner.infer({INPUT: inputs[INPUT][n : n + 1]}, policy=policies[kind]) for n in range(SAMPLES)]
    for field in ("predictions", "exits", "outputs", "readouts", "scores"):
        found = np.concatenate([getattr(one, field) for one in alone])
        assert found.dtype == getattr(together, field).dtype
        np.testing.assert_allclose(found, getattr(together, field), rtol=1e-5, atol=1e-6)
    assert len(np.unique(together.exits)) > 1, "the samples must take different exits"


def test_the_latency_counts_from_the_call_to_the_decision(runner, inputs, policies):
    started = time.perf_counter()
    result = runner.infer({INPUT: inputs[INPUT][:1]}, policy=policies["beem"])
    elapsed_ms = (time.perf_counter() - started) * 1000
    assert len(result.stage_ms) == len(result.decide_ms) == result.exits[0] + 1
    assert sum(result.stage_ms) + sum(result.decide_ms) <= result.latency_ms[0] <= elapsed_ms


def test_a_result_is_unchanged_by_later_inferences(runner, inputs, policies):
    first = runner.infer({INPUT: inputs[INPUT][:1]}, policy=policies["confidence"])
    copies = first.outputs.copy(), first.readouts.copy()
    for n in range(1, SAMPLES):
        runner.infer({INPUT: inputs[INPUT][n : n + 1]}, policy=policies["confidence"])
    np.testing.assert_array_equal(first.outputs, copies[0])
    np.testing.assert_array_equal(first.readouts, copies[1])
