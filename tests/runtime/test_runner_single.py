"""Inference of a single sample, which uses faster code than a batch and gives the same results."""

import time

import numpy as np
import pytest

from edgeexit.errors import DataError, PolicyError
from edgeexit.policies import KINDS
from edgeexit.policies.confidence import Confidence
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


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[:, :-1],
        lambda array: array.astype(np.float64),
        lambda array: array.astype(array.dtype.newbyteorder()),
        lambda array: array[0],
        lambda array: array[:0],
        lambda array: array.tolist(),
    ],
)
def test_a_single_sample_that_does_not_match_is_refused(runner, inputs, policies, change):
    array = inputs[INPUT][:1]
    runner.infer({INPUT: array}, policy=policies["confidence"])
    with pytest.raises(DataError):
        runner.infer({INPUT: change(array)}, policy=policies["confidence"])
    with pytest.raises(DataError):
        runner.infer({"other": array}, policy=policies["confidence"])


def test_other_arrays_and_other_kinds_of_numpy_arrays_have_the_same_result(runner, inputs, policies):
    array = inputs[INPUT][:1]
    expected = runner.infer({INPUT: array}, policy=policies["confidence"])
    reversed_rows = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    for same in ({INPUT: array, "other": array}, {INPUT: array.view(np.memmap)}, {INPUT: reversed_rows}):
        found = runner.infer(same, policy=policies["confidence"])
        np.testing.assert_array_equal(found.outputs, expected.outputs)


def test_a_single_sample_that_is_not_finite_is_refused_if_the_runner_refuses_such_inputs(tmp_path, inputs, policies):
    array = inputs[INPUT][:1].copy()
    array.flat[0] = np.nan
    with Runner(make_bundle(tmp_path / "bundle", exits=4), not_finite="refuse") as runner:
        runner.infer({INPUT: inputs[INPUT][:1]}, policy=policies["confidence"])
        with pytest.raises(DataError, match="NaN"):
            runner.infer({INPUT: array}, policy=policies["confidence"])


def test_a_policy_for_another_model_is_refused_after_one_that_fits(runner, inputs, policies):
    sample = {INPUT: inputs[INPUT][:1]}
    other = Confidence(temperatures=(1.0, 1.0), thresholds=(0.5,))
    for _ in range(2):
        runner.infer(sample, policy=policies["confidence"])
        with pytest.raises(PolicyError, match="is for 2 exits"):
            runner.infer(sample, policy=other)


@pytest.mark.parametrize("kind", KINDS)
def test_results_have_the_same_dtypes_and_shapes_as_those_of_a_batch(runner, inputs, policies, kind):
    together = runner.infer({INPUT: inputs[INPUT][:2]}, policy=policies[kind])
    alone = runner.infer({INPUT: inputs[INPUT][:1]}, policy=policies[kind])
    for field in ("predictions", "exits", "outputs", "readouts", "scores", "latency_ms"):
        one, two = getattr(alone, field), getattr(together, field)
        assert (one.dtype, one.shape[1:]) == (two.dtype, two.shape[1:])
        assert one.flags.c_contiguous
        assert one.flags.owndata
        assert one.flags.writeable
