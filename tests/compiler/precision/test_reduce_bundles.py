"""Bundles in fp16 and int8: types of the carries, fidelity in the manifest, and rejected options."""

import numpy as np
import onnx
import pytest
import torch

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.precision.quantise import INT8_OPERATORS
from edgeexit.errors import CompileError, DataError
from edgeexit.runtime import Runner
from tests.compiler.networks import Residual
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(8)
    return {"image": rng.standard_normal((48, 1, 8, 8)).astype(np.float32), "labels": rng.integers(0, 3, 48)}


@pytest.fixture(scope="module", params=["fp16", "int8"])
def reduced(request, tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("reduced") / request.param
    return compile_bundle(
        Residual(), folder, CompileOptions(calibration=samples, example=samples, precision=request.param)
    )


def test_the_carry_has_the_type_of_the_precision(reduced):
    (carry,) = reduced.manifest.stages[0].carry_out
    assert carry.dtype == {"fp16": "float16", "int8": "int8"}[reduced.manifest.precision]
    assert carry.bytes_per_sample == 4 * 8 * 8 * np.dtype(carry.dtype).itemsize


def test_inputs_logits_and_readouts_stay_float32(reduced, samples):
    outputs = run_stages(reduced, {"image": samples["image"]})
    assert {outputs[name].dtype for name in outputs if "exit" in name} == {np.dtype("float32")}
    assert [spec.dtype for spec in reduced.manifest.inputs] == ["float32"]


def test_the_logits_of_every_exit_are_close_to_fp32(reduced, residual, samples):
    with Runner(residual) as exact, Runner(reduced) as runner:
        expected = exact.infer_every_exit({"image": samples["image"]}).outputs
        found = runner.infer_every_exit({"image": samples["image"]}).outputs
    span = {"fp16": 0.005, "int8": 0.05}[reduced.manifest.precision]
    for name, logits in expected.items():
        np.testing.assert_allclose(found[name], logits, atol=span * np.abs(logits).max())
        assert np.abs(found[name] - logits).max() > 0  # the precision was really reduced


def test_the_manifest_contains_the_fidelity(reduced, residual, samples):
    fidelity = reduced.manifest.fidelity
    assert fidelity.samples == 48
    with Runner(residual) as exact, Runner(reduced) as runner:
        fp32 = exact.infer_every_exit({"image": samples["image"]}).outputs
        shipped = runner.infer_every_exit({"image": samples["image"]}).outputs
    for name, lost in fidelity.exits.items():
        classes, classes_fp32 = shipped[name].argmax(axis=1), fp32[name].argmax(axis=1)
        assert lost.agreement == pytest.approx(np.mean(classes == classes_fp32), abs=1.5 / 48)
        assert lost.accuracy == pytest.approx(np.mean(classes == samples["labels"]), abs=1.5 / 48)
        assert lost.accuracy_fp32 == pytest.approx(np.mean(classes_fp32 == samples["labels"]), abs=1.5 / 48)


def test_patterns_match_the_names_of_torch_modules(tmp_path, samples):
    """The exporter names nodes `node_linear` and `val_13`; users know the names of their modules."""
    bundle = compile_bundle(
        Residual(),
        tmp_path / "bundle",
        CompileOptions(example=samples, precision="fp16", keep_fp32=["heads.*", "blocks.0*"]),
    )
    types = {}
    for stage in bundle.manifest.stages:
        graph = onnx.load(bundle.path / stage.file, load_external_data=False).graph
        weights = {weight.name: weight.data_type for weight in graph.initializer}
        types |= {
            node.name.split("/")[0]: weights[node.input[1]] for node in graph.node if node.op_type in INT8_OPERATORS
        }
    kept = {module for module, dtype in types.items() if dtype == onnx.TensorProto.FLOAT}
    assert types.keys() == {"stem", "blocks.0.1", "heads.0", "blocks.1.1", "heads.1"}
    assert kept == {"blocks.0.1", "heads.0", "heads.1"}


def test_ranges_use_all_calibration_samples(tmp_path, samples, monkeypatch):
    """Large logits limit the number of samples for the fidelity, but not for the int8 ranges."""
    monkeypatch.setattr("edgeexit.compiler.exits.run._MAX_LOGIT_BYTES", 8 * 2 * 3 * 4)
    progress = RecordedProgress()
    bundle = compile_bundle(
        Residual(),
        tmp_path / "bundle",
        CompileOptions(example=samples, precision="int8", max_loss=1),
        progress=progress,
    )
    assert bundle.manifest.fidelity.samples == 8
    assert not [warning for warning in progress.warnings if "samples are few" in warning]


class Hot(Residual):
    """The values between two layers exceed float16's range; weights and exits do not."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            for weight in (self.stem.weight, self.stem.bias, self.blocks[0][0].bias):
                weight.mul_(1e6)
            self.heads[0].weight.mul_(1e-6)
            self.heads[1].weight.mul_(1e-6)


def test_intermediate_values_beyond_float16_are_found_on_the_samples(tmp_path, samples):
    progress = RecordedProgress()
    bundle = compile_bundle(
        Hot(),
        tmp_path / "bundle",
        CompileOptions(example=samples, precision="fp16"),
        progress=progress,
    )
    (warning,) = (warning for warning in progress.warnings if "on the samples" in warning)
    assert "'stem/node_conv2d'" in warning or "'relu" in warning or "node_relu" in warning
    assert all(lost.agreement == 1 for lost in bundle.manifest.fidelity.exits.values())
    (carry,) = bundle.manifest.stages[0].carry_out
    assert carry.dtype == "float32"


def test_an_fp32_bundle_has_no_fidelity(residual):
    assert residual.manifest.fidelity is None
    assert residual.manifest.keep_fp32 == ()


class Undecided(Residual):
    """The classes have almost the same logits, so that rounding changes predictions."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            for head in self.heads:
                head.weight.copy_(head.weight[:1] + 1e-4 * head.weight)
                head.bias.zero_()


def test_kept_nodes_are_in_the_manifest_and_a_loss_gives_a_warning(tmp_path, samples):
    progress = RecordedProgress()
    bundle = compile_bundle(
        Undecided(),
        tmp_path / "bundle",
        CompileOptions(example={"image": samples["image"]}, precision="int8", keep_fp32=["stem*"], max_loss=0),
        progress=progress,
    )
    assert bundle.manifest.keep_fp32 == ("stem*",)
    assert sum("predicts another class than fp32" in warning for warning in progress.warnings) == 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"precision": "int8"}, CompileError, "int8 needs real samples for its ranges"),
        ({"precision": "fp16", "keep_fp32": ["nothing*"]}, CompileError, r"'nothing\*' matches no node"),
        ({"keep_fp32": ["*"]}, CompileError, "all nodes are in fp32"),
        (
            {"precision": "int8", "calibration": {"image": np.full((40, 1, 8, 8), np.nan, np.float32)}},
            DataError,
            "'image' has NaN in sample 0",
        ),
        (
            {"precision": "int8", "calibration": {"image": np.zeros((4, 1, 8, 9), np.float32)}},
            DataError,
            "calibration data: 'image' has shape 4x1x8x9",
        ),
        (
            {"precision": "fp16", "calibration": {"image": np.zeros((2, 1, 8, 8), np.float32), "labels": [0, 7]}},
            DataError,
            "calibration data: label 7 is outside the model's classes",
        ),
    ],
    ids=["no data", "pattern", "fp32", "NaN", "shape", "label"],
)
def test_an_impossible_precision_is_rejected(tmp_path, options, error, match):
    options = {name: _arrays(value) if name == "calibration" else value for name, value in options.items()}
    with pytest.raises(error, match=match):
        compile_bundle(Residual(), tmp_path / "bundle", CompileOptions(inputs=["image:batch,1,8,8"], **options))
    assert not any(tmp_path.iterdir())


def _arrays(given):
    return {name: np.asarray(value) for name, value in given.items()}
