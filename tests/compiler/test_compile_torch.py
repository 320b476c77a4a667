"""A bundle of a torch model has the expected contents, and returns the logits of the model."""

import re

import numpy as np
import onnx
import pytest
import torch

from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler import STEPS, CompileOptions, compile_bundle
from edgeexit.datasets import Dataset
from edgeexit.errors import BundleError
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from tests.compiler.networks import Dense, Masked, Residual, SequenceFirst
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress


def module_logits(module, **inputs):
    with torch.no_grad():
        returned = module.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    values = returned.values() if isinstance(returned, dict) else returned
    return [value.numpy() for value in values]


def assert_equals_module(bundle, module, **inputs):
    outputs = run_stages(bundle, inputs)
    for name, expected in zip(bundle.manifest.exits, module_logits(module, **inputs), strict=True):
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5, rtol=1e-4)


def test_a_residual_network_equals_torch_at_any_batch_size(residual, images):
    for batch in (1, 2, 7):
        assert_equals_module(residual, Residual(), image=images[:batch])


class Squeezes(Residual):
    """Pools to [B, C, 1, 1] and removes all dimensions of size 1, also a batch of 1."""

    def forward(self, image):
        return [exit_.unsqueeze(-1).squeeze() for exit_ in super().forward(image)]


def test_a_forward_that_squeezes_a_batch_of_one_compiles(tmp_path, images):
    bundle = compile_bundle(Squeezes(), tmp_path / "bundle", CompileOptions(example={"image": images}))
    for batch in (1, 3):
        assert_equals_module(bundle, Residual(), image=images[:batch])


class Uncertain(Residual):
    """Returns the entropy of each exit, computed by torch.distributions."""

    def forward(self, image):
        exits = super().forward(image)
        return exits, [torch.distributions.Categorical(logits=each).entropy() for each in exits]


def test_companions_may_use_distributions_which_check_their_arguments(tmp_path, images):
    options = CompileOptions(example={"image": images}, companions={"entropy": ["1.*"]})
    bundle = compile_bundle(Uncertain(), tmp_path / "bundle", options)
    with Runner(bundle) as runner:
        result = runner.infer({"image": images}, policy=Confidence(temperatures=(1.0, 1.0), thresholds=(1.1,)))
    logits = torch.from_numpy(module_logits(Residual(), image=images)[-1])
    expected = torch.distributions.Categorical(logits=logits).entropy()
    np.testing.assert_allclose(result.companions["entropy"], expected, atol=1e-5)


def test_the_manifest_describes_stages_inputs_and_cost(residual):
    manifest = residual.manifest
    assert manifest.model == "Residual"
    assert manifest.exits == ("exit0", "exit1")
    assert manifest.inputs == (TensorSpec(name="image", dtype="float32", shape=("batch", 1, 8, 8)),)
    first, second = manifest.stages
    assert (first.inputs, first.carry_in) == (("image",), ())
    assert (second.inputs, second.carry_in) == ((), (first.carry_out[0].name,))
    assert first.carry_out[0].shape == ("batch", 4, 8, 8)
    convolution = 64 * 9 * 4
    assert first.macs == convolution * (1 + 4) + 4 * 3
    assert second.macs == convolution * 4 + 4 * 3


def test_the_proof_and_the_golden_samples_use_the_example(residual, images):
    assert (residual.manifest.proof.samples, residual.manifest.proof.source) == (12, "data")
    assert max(residual.manifest.proof.max_absolute_error.values()) < 1e-5
    golden = residual.golden()
    np.testing.assert_array_equal(golden.inputs["image"], images[:8])
    for name, expected in zip(("exit0", "exit1"), module_logits(Residual(), image=images[:8]), strict=True):
        np.testing.assert_allclose(golden.exits[name], expected, atol=1e-5)


def test_dense_connections_are_carried_over_several_stages(dense):
    assert dense.manifest.exits == ("shallow", "middle", "deep")
    first, second, third = dense.manifest.stages
    assert {tensor.name for tensor in first.carry_out} & set(third.carry_in)
    assert second.carry_out
    samples = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    assert_equals_module(dense, Dense(), input=samples)


def test_two_inputs_may_have_a_symbolic_length(masked):
    names = [(spec.name, spec.dtype, spec.shape) for spec in masked.manifest.inputs]
    assert names == [("ids", "int64", ("batch", "length")), ("mask", "int64", ("batch", "length"))]
    rng = np.random.default_rng(0)
    for batch, length in ((1, 3), (3, 8), (4, 13)):
        mask = (np.arange(length) < rng.integers(1, length + 1, size=(batch, 1))).astype(np.int64)
        assert_equals_module(masked, Masked(), ids=rng.integers(0, 50, (batch, length)), mask=mask)


def test_weights_that_exits_share_are_stored_once(masked):
    head = 8 * 768 * 4
    size = (masked.path / "weights.bin").stat().st_size
    assert head < size < 2 * head
    assert all((masked.path / f"stage{k}.onnx").stat().st_size < head for k in (0, 1))


def test_a_carry_whose_batch_is_on_another_axis_is_transposed(tmp_path):
    bundle = compile_bundle(SequenceFirst(), tmp_path / "bundle", CompileOptions(inputs=["x:batch,5,6"]))
    (carry,) = bundle.manifest.stages[0].carry_out
    assert carry.shape == ("batch", 5, 6)
    samples = np.random.default_rng(0).standard_normal((3, 5, 6)).astype(np.float32)
    assert_equals_module(bundle, SequenceFirst(), x=samples)


def test_the_runner_reproduces_the_golden_samples(residual, masked):
    for bundle in (residual, masked):
        golden = bundle.golden()
        with Runner(bundle) as runner:
            outputs = runner.infer_every_exit(golden.inputs).outputs
        for name, expected in golden.exits.items():
            np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


def test_the_same_model_gives_the_same_bytes(residual, images, tmp_path):
    again = compile_bundle(Residual(), tmp_path / "again", CompileOptions(example=Dataset(inputs={"image": images})))
    assert again.digest == residual.digest
    assert again.manifest.files == residual.manifest.files


def test_the_stages_contain_no_paths_or_code_of_the_build_machine(residual):
    for file in residual.path.iterdir():
        assert not re.search(rb"site-packages|networks\.py|forward\(|torch\.nn", file.read_bytes()), file.name
    for stage in residual.manifest.stages:
        onnx.checker.check_model(residual.path / stage.file, full_check=True)


def test_every_value_inside_a_stage_has_a_shape(residual):
    for stage in residual.manifest.stages:
        graph = onnx.load(residual.path / stage.file, load_external_data=False).graph
        known = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.HasField("shape")}
        assert {name for node in graph.node for name in node.output} <= known


def test_a_program_from_torch_export_is_compiled(tmp_path, images):
    module = Residual().eval()
    program = torch.export.export(
        module, (torch.from_numpy(images[:2]),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, tmp_path / "saved.pt2")
    bundle = compile_bundle(tmp_path / "saved.pt2", tmp_path / "bundle")
    assert bundle.manifest.model == "saved"
    assert bundle.manifest.proof.source == "random"
    assert_equals_module(bundle, Residual(), image=images)


def test_a_factory_file_can_import_its_neighbours(tmp_path):
    (tmp_path / "widths.py").write_text("WIDTH = 3\n")
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom widths import WIDTH\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, WIDTH)\n"
        "    def forward(self, x):\n"
        "        y = self.a(x)\n"
        "        return y, self.b(y)\n"
    )
    bundle = compile_bundle(
        f"{tmp_path / 'mine.py'}:Net",
        tmp_path / "bundle",
        CompileOptions(inputs=["x:1,4"], class_names=["a", "b", "c"]),
    )
    assert bundle.manifest.model == "mine"
    assert bundle.manifest.class_names == ("a", "b", "c")
    outputs = run_stages(bundle, bundle.golden().inputs)
    np.testing.assert_allclose(outputs["exit1"], bundle.golden().exits["exit1"], atol=1e-5)


def test_a_factory_in_a_package_names_the_model_after_its_module(tmp_path):
    bundle = compile_bundle(
        "tests.compiler.networks:Dense", tmp_path / "bundle", CompileOptions(inputs=["input:batch,4"])
    )
    assert bundle.manifest.model == "networks"


def test_the_module_stays_in_training_mode_and_the_steps_are_reported(tmp_path):
    module = Dense().train()
    progress = RecordedProgress()
    compile_bundle(module, tmp_path / "bundle", CompileOptions(inputs=["input:batch,4"]), progress=progress)
    assert tuple(progress.steps) == STEPS
    assert module.training
    assert all(layer.training for layer in module.layers)


def test_an_existing_bundle_is_replaced_only_with_replace(residual):
    with pytest.raises(BundleError, match="exists already"):
        compile_bundle(Residual(), residual.path, CompileOptions(inputs=["image:batch,1,8,8"]))
    assert Bundle.open(residual.path).digest == residual.digest
