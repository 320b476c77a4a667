"""The staged runner on real ONNX Runtime sessions."""

import numpy as np
import pytest

from edgeexit.errors import BundleError, DataError, PolicyError
from edgeexit.policies import KINDS, simulate_exits
from edgeexit.policies.beem import Beem
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from tests.bundle.rewriting import with_matching_manifest
from tests.bundles import INPUT, make_bundle, make_samples
from tests.runtime.policies_of_every_kind import policies_on

CONFIDENCE = Confidence(temperatures=(1.0,) * 4, thresholds=(0.6, 0.7, 0.8))
BEEM = Beem(temperatures=(1.0, 1.5, 1.0, 1.0), thresholds=(0.5, 0.8, 1.2), weights=(0.7, 0.8, 0.9, 1.0))
NEVER_EARLY = Confidence(temperatures=(1.0,) * 4, thresholds=(None,) * 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("runner") / "bundle", exits=4)


@pytest.fixture(scope="module")
def runner(bundle):
    with Runner(bundle) as opened:
        yield opened


def test_every_exit_matches_the_golden_samples(bundle, runner):
    golden = bundle.golden()
    every = runner.infer_every_exit(golden.inputs)
    assert list(every.outputs) == ["e0", "e1", "e2", "e3"]
    for name, expected in golden.exits.items():
        np.testing.assert_allclose(every.outputs[name], expected, rtol=1e-4, atol=1e-4)
    assert every.readouts.shape == (len(golden.inputs[INPUT]), 4, 4)


def test_the_temperature_changes_the_readout_and_not_the_logits(runner):
    inputs = make_samples(16)
    plain, hot = runner.infer_every_exit(inputs), runner.infer_every_exit(inputs, temperatures=(5.0,) * 4)
    np.testing.assert_allclose(plain.outputs["e2"], hot.outputs["e2"])
    scaled = plain.outputs["e2"] / 5
    p = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(hot.readouts[:, 2, 1], p.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(hot.readouts[:, 2, 3], -(p * np.log(p)).sum(axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", [CONFIDENCE, BEEM], ids=["confidence", "beem"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_every_sample_of_a_batch_exits_as_in_the_simulation(runner, policy, batch):
    """Exits, predictions and outputs equal those of a simulation of the policy on all readouts."""
    inputs = make_samples(batch, seed=batch)
    every = runner.infer_every_exit(inputs, temperatures=policy.temperatures)
    expected = simulate_exits(policy, every.readouts)
    result = runner.infer(inputs, policy=policy)
    np.testing.assert_array_equal(result.exits, expected)
    rows = np.arange(batch)
    np.testing.assert_array_equal(result.predictions, every.readouts[rows, expected, 0])
    stacked = np.stack(list(every.outputs.values()), axis=1)
    np.testing.assert_allclose(result.outputs, stacked[rows, expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(result.scores), np.arange(4) > expected[:, None])
    if batch == 64:
        assert len(np.unique(expected)) > 2, "the samples must take different exits"


def test_predictions_do_not_depend_on_the_other_samples_of_the_batch(runner):
    inputs = make_samples(32, seed=5)
    together = runner.infer(inputs, policy=BEEM)
    alone = [runner.infer({INPUT: inputs[INPUT][i : i + 1]}, policy=BEEM) for i in range(32)]
    np.testing.assert_array_equal(together.exits, np.concatenate([one.exits for one in alone]))
    np.testing.assert_array_equal(together.predictions, np.concatenate([one.predictions for one in alone]))


def test_later_stages_do_not_run_after_every_sample_has_exited(runner):
    always = Confidence(temperatures=(1.0,) * 4, thresholds=(0.0, 0.0, 0.0))
    assert len(runner.infer(make_samples(8), policy=always).stage_ms) == 1
    assert len(runner.infer(make_samples(8), policy=NEVER_EARLY).stage_ms) == 4


def test_samples_that_exit_earlier_have_a_lower_latency(runner):
    result = runner.infer(make_samples(64, seed=64), policy=CONFIDENCE)
    by_exit = [result.latency_ms[result.exits == k].max() for k in np.unique(result.exits)]
    assert by_exit == sorted(by_exit)
    assert (result.latency_ms > 0).all()


def test_inputs_that_do_not_match_are_named(runner):
    with pytest.raises(DataError, match="'x' has shape 2x9, but the model takes batchx8"):
        runner.infer({INPUT: np.zeros((2, 9), np.float32)}, policy=CONFIDENCE)
    with pytest.raises(DataError, match="the array 'x' is missing; the arrays are 'y'"):
        runner.infer({"y": np.zeros((2, 8), np.float32)}, policy=CONFIDENCE)
    with pytest.raises(DataError, match="'x' is a list; it must be a numpy array"):
        runner.infer({INPUT: [[0.0] * 8]}, policy=CONFIDENCE)


def test_a_policy_for_another_number_of_exits_is_refused(runner):
    with pytest.raises(PolicyError, match="for 2 exits, the bundle has 4"):
        runner.infer(make_samples(1), policy=Confidence(temperatures=(1.0, 1.0), thresholds=(0.5,)))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"not_finite": "maybe"}, "not_finite is 'maybe'; it must be one of refuse, pass"),
        ({"max_delay_ms": float("nan")}, "max_delay_ms is nan; it must be finite and at least 0"),
        ({"max_delay_ms": -1.0}, "max_delay_ms is -1.0; it must be finite and at least 0"),
        ({"max_waiting": 0}, "max_waiting is 0; it must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(bundle, options, word):
    with pytest.raises(ValueError, match=word):
        Runner(bundle, **options)


def test_a_stage_that_cannot_be_opened_is_named(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    graph = (bundle.path / "stage1.onnx").read_bytes().replace(b"MatMul", b"MatNul")
    (bundle.path / "stage1.onnx").write_bytes(graph)
    with pytest.raises(BundleError, match=r"stage1\.onnx is damaged"), Runner(bundle):
        pass
    with pytest.raises(BundleError, match=r"stage1\.onnx cannot be opened"), Runner(with_matching_manifest(bundle)):
        pass


def test_onnx_runtime_on_the_cpu_replaces_a_missing_runtime_with_a_warning(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", target="jetson-orin-nano")
    golden = bundle.golden()
    with Runner(make_bundle(tmp_path / "here")) as runner:
        assert not runner.warnings
    with Runner(bundle) as runner:
        assert runner.runtime.startswith("onnxruntime")
        assert len(runner.warnings) == 1
        assert "'jetson-orin-nano' is for aarch64, this machine is x86_64" in runner.warnings[0]
        for name, logits in runner.infer_every_exit(golden.inputs).outputs.items():
            np.testing.assert_allclose(logits, golden.exits[name], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_is_not_finite_runs_to_full_depth_and_does_not_change_other_samples(bundle, runner, kind):
    clean = make_samples(40, seed=8)
    policy = policies_on(runner.infer_every_exit(clean, probabilities=True).readouts)[kind]
    expected = runner.infer(clean, policy=policy)
    broken = np.isin(np.arange(40), [0, 7, 8, 39])
    inputs = {INPUT: np.where(broken[:, None], np.float32(np.nan), clean[INPUT])}
    inputs[INPUT][7] = clean[INPUT][7]
    inputs[INPUT][7, 0] = np.inf
    result = runner.infer(inputs, policy=policy)
    assert (result.exits[broken] == 3).all()
    assert ((result.predictions[broken] >= 0) & (result.predictions[broken] < bundle.manifest.classes)).all()
    assert not np.isfinite(result.outputs[broken]).all(axis=1).any()
    np.testing.assert_array_equal(result.exits[~broken], expected.exits[~broken])
    np.testing.assert_array_equal(result.predictions[~broken], expected.predictions[~broken])
    np.testing.assert_allclose(result.outputs[~broken], expected.outputs[~broken], atol=1e-5)
    assert len(set(result.exits[~broken])) > 1


def test_the_number_of_temperatures_must_be_the_number_of_exits(tmp_path):
    with (
        Runner(make_bundle(tmp_path / "bundle")) as opened,
        pytest.raises(PolicyError, match="2 temperatures for 3"),
    ):
        opened.infer_every_exit(make_samples(1), temperatures=(1.0, 2.0))
