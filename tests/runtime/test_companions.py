"""Companion outputs: every sample gets the companions of the exit that it takes, in every way to run samples."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import TensorSpec
from edgeexit.errors import InferenceError
from edgeexit.policies import Decision
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, make_backend
from edgeexit.runtime.inference import InferenceBuilder, concatenate
from edgeexit.runtime.stage_run import StageRun
from tests.backends.dummy.backend import DummyBackend
from tests.bundles import INPUT, companions_of, make_bundle, make_samples
from tests.runtime.chosen_exits import policy_that_takes

EXITS = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("companions") / "bundle", exits=EXITS, companions=True)


@pytest.fixture(scope="module")
def runner(bundle):
    with Runner(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def confident(bundle):
    """A policy under which samples take every exit."""
    with Runner(bundle) as opened:
        p1 = opened.infer_every_exit(make_samples(200)).readouts[:, :, 1]
    thresholds = tuple(float(np.median(p1[:, k])) for k in range(EXITS - 1))
    return Confidence(temperatures=(1.0,) * EXITS, thresholds=thresholds)


def assert_companions_of_the_exits(bundle, samples, result):
    every = companions_of(bundle, samples)
    assert list(result.companions) == ["corners", "feature"]
    for name, found in result.companions.items():
        expected = np.stack([every[k][name][i] for i, k in enumerate(result.exits)])
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(exits=st.lists(st.integers(0, EXITS - 1), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_each_sample_gets_the_companions_of_the_exit_that_it_takes(bundle, runner, exits, seed):
    samples = make_samples(len(exits), seed=seed)
    result = runner.infer(samples, policy=policy_that_takes(exits, of=EXITS))
    np.testing.assert_array_equal(result.exits, exits)
    assert_companions_of_the_exits(bundle, samples, result)


def test_a_batch_above_the_max_batch_has_companions_for_every_sample(bundle, runner, confident):
    samples = make_samples(150)
    result = runner.infer(samples, policy=confident)
    assert set(result.exits) == set(range(EXITS))
    assert_companions_of_the_exits(bundle, samples, result)


def test_a_result_keeps_its_companions_when_later_inferences_reuse_the_buffers(bundle, runner, confident):
    batches = [make_samples(count, seed=index) for index, count in enumerate((1, 3, 1, 3))]
    results = [(samples, runner.infer(samples, policy=confident)) for samples in batches]
    for samples, result in results:
        assert_companions_of_the_exits(bundle, samples, result)


def test_concurrent_requests_get_the_companions_of_their_own_samples(bundle, confident):
    samples = make_samples(120, seed=3)
    with Runner(bundle, max_delay_ms=2.0) as runner, ThreadPoolExecutor(8) as pool:
        parts = [{INPUT: samples[INPUT][i : i + 1 + i % 3]} for i in range(0, 117, 3)]
        futures = list(pool.map(lambda part: runner.infer_async(part, policy=confident), parts))
        for part, future in zip(parts, futures, strict=True):
            assert_companions_of_the_exits(bundle, part, future.result(30))


def test_a_backend_of_ones_own_delivers_companions(bundle, confident):
    samples = make_samples(20, seed=4)
    with Runner(bundle, backend=DummyBackend(bundle, None, fallback=False)) as runner:
        assert_companions_of_the_exits(bundle, samples, runner.infer(samples, policy=confident))


def test_a_bundle_without_companions_asks_its_backend_for_none(tmp_path, confident):
    bundle = make_bundle(tmp_path / "bundle", exits=EXITS)
    backend = make_backend(bundle)
    begin = backend.begin

    def begin_watched(inputs, *, probabilities):
        batch = begin(inputs, probabilities=probabilities)
        batch.companions = None  # a call would raise TypeError
        return batch

    backend.begin = begin_watched
    with Runner(bundle, backend=backend) as runner:
        samples = make_samples(5)
        assert runner.infer(samples, policy=confident).companions == {}
        assert runner.infer_async(samples, policy=confident).result(30).companions == {}
        assert runner.infer({INPUT: samples[INPUT][:1]}, policy=confident).companions == {}


def test_full_depth_runs_have_no_companions_and_the_same_outputs(bundle, tmp_path):
    plain = make_bundle(tmp_path / "bundle", exits=EXITS)
    samples = make_samples(9)
    with Runner(bundle) as first, Runner(plain) as second:
        found, expected = first.infer_every_exit(samples), second.infer_every_exit(samples)
    for name, outputs in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], outputs)


def test_a_companion_whose_size_depends_on_the_data_is_refused_in_one_line(bundle, runner, confident):
    result = runner.infer(make_samples(3), policy=confident)
    longer = {name: np.concatenate([array, array], axis=-1) for name, array in result.companions.items()}
    other = msgspec.structs.replace(result, companions=longer)
    with pytest.raises(InferenceError, match=r"^companion 'corners' has samples of 2x2 and 2x4; run the samples one"):
        concatenate([result, other])


def test_exits_whose_companions_have_different_sizes_are_refused_in_one_line():
    zeros = np.zeros(2, dtype=np.float32)
    run = StageRun(0, np.zeros((2, 4), np.float32), Decision(zeros == 0, zeros, zeros, zeros[:, None]), 0, 0, 0)
    builder = InferenceBuilder(2, EXITS)

    def add(row, size):
        rows, companions = np.array([row]), {"boxes": np.zeros((2, size))}
        builder.add_exited(run, rows, rows, outputs=zeros[:, None], latency_ms=1.0, companions=companions)

    add(0, 5)
    with pytest.raises(InferenceError, match=r"^companion 'boxes' has samples of 5 and 6; "):
        add(1, 6)


def test_a_manifest_whose_stages_have_different_companions_is_refused(bundle):
    manifest = bundle.manifest
    wrong = {"corners": TensorSpec(name="corners3", dtype="float32", shape=("batch", 5))}
    stages = (*manifest.stages[:-1], msgspec.structs.replace(manifest.stages[-1], companions=wrong))
    document = msgspec.json.encode(msgspec.structs.asdict(manifest) | {"stages": stages})
    with pytest.raises(msgspec.ValidationError, match="stage3 and stage0 have different companions"):
        msgspec.json.decode(document, type=type(manifest))


def test_a_bundle_keeps_its_companions_on_disk(bundle):
    reopened = Bundle.open(bundle.path).manifest
    assert reopened.companions == ("corners", "feature")
    assert reopened.stages[2].companions["corners"].name == "corners2"
