"""Companion outputs: chosen by name, split with their exits, proven, and delivered as the full model returns them."""

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.exits.companions import Companion, assign_companions, check_companion_names, parse_companions
from edgeexit.compiler.torch_module.outputs import choose_outputs, flatten_outputs
from edgeexit.compiler.verify import Rounding
from edgeexit.compiler.verify_companions import check_companions_against_torch
from edgeexit.errors import CompileError
from edgeexit.runtime import Runner
from tests.compiler import graphs
from tests.cpu import EXACT_INT8
from tests.recorded_progress import RecordedProgress
from tests.runtime.chosen_exits import policy_that_takes

DETECTOR = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (
  float[N,3] e0, float[N,3] e1, float[N,3] e2, float[N,2,2] b0, float[N,2,2] b1, float[N,2,2] b2,
  int64[N] k0, int64[N] k1, int64[N] k2, float[N,8] stem, float[1,1] total
) {
  stem = MatMul(x, w0)
  h0 = Relu(stem)
  e0 = MatMul(h0, head)
  shape = Constant<value_ints = [-1, 2, 2]>()
  r0 = MatMul(h0, box)
  b0 = Reshape(r0, shape)
  k0 = ArgMax<axis = 1, keepdims = 0>(h0)
  m1 = MatMul(h0, w1)
  h1 = Relu(m1)
  e1 = MatMul(h1, head)
  r1 = MatMul(h1, box)
  b1 = Reshape(r1, shape)
  k1 = ArgMax<axis = 1, keepdims = 0>(h1)
  m2 = MatMul(h1, w2)
  h2 = Relu(m2)
  e2 = MatMul(h2, head)
  r2 = MatMul(h2, box)
  b2 = Reshape(r2, shape)
  k2 = ArgMax<axis = 1, keepdims = 0>(h2)
  total = ReduceSum<keepdims = 1>(x)
}
"""
"""Boxes and the index of the largest feature at each exit, and features of the stem, which all exits may share."""

WEIGHTS = {"w0": (8, 8), "w1": (8, 8), "w2": (8, 8), "head": (8, 3), "box": (8, 4)}
EXITS = ["e0", "e1", "e2"]
BOXES = ("b0", "b1", "b2")
FP32 = Rounding(fp16=False, quantised=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return graphs.save_graph(tmp_path_factory.mktemp("detector") / "detector.onnx", DETECTOR, **WEIGHTS)


def rows(count, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)}


def compiled(file, folder, companions, **options):
    progress = RecordedProgress()
    made = compile_bundle(
        file, folder / "bundle", CompileOptions(exits=EXITS, companions=companions, **options), progress=progress
    )
    return made, progress.warnings


def assert_delivered(bundle, full_model, companions, samples, *, atol=1e-5):
    """Assert that each sample gets the full model's outputs that `companions` lists for the exit that it takes."""
    count = len(next(iter(samples.values())))
    exits = np.random.default_rng(1).integers(0, len(bundle.manifest.exits), count)
    with Runner(bundle) as runner:
        result = runner.infer(samples, policy=policy_that_takes(exits, of=len(bundle.manifest.exits)))
    np.testing.assert_array_equal(result.exits, exits)
    assert result.companions.keys() == companions.keys()
    for name, outputs in companions.items():
        every = [full_model(output) for output in outputs]
        expected = np.stack([every[k][row] for row, k in enumerate(exits)])
        assert result.companions[name].dtype == expected.dtype
        np.testing.assert_allclose(result.companions[name], expected, atol=atol)


def outputs_of(file, samples):
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda output: session.run([output], samples)[0]


@pytest.mark.parametrize(
    "companions",
    [
        {"boxes": BOXES, "feature": ("k0", "k1", "k2")},
        {"boxes": ("b*",)},
        {"stem": ("stem", "stem", "stem"), "again": ("stem", "stem", "stem")},
        {"boxes": ("b1", "b1", "b2"), "feature": ("k2", "k0", "k1")},
    ],
    ids=["one per exit", "by pattern", "one for all exits", "of other exits"],
)
def test_each_sample_gets_the_full_models_companions_at_the_exit_that_it_takes(file, tmp_path, companions):
    bundle, _ = compiled(file, tmp_path, companions)
    expanded = {name: BOXES if outputs == ("b*",) else outputs for name, outputs in companions.items()}
    samples = rows(60, seed=3)
    assert_delivered(bundle, outputs_of(file, samples), expanded, samples)
    assert bundle.manifest.companions == tuple(sorted(companions))
    assert bundle.manifest.proof.max_companion_error.keys() == companions.keys()
    assert all(error < 1e-4 for error in bundle.manifest.proof.max_companion_error.values())


def test_the_manifest_describes_the_companions_of_each_exit(file, tmp_path):
    bundle, warnings = compiled(file, tmp_path, {"boxes": BOXES, "feature": ("k0", "k1", "k2")})
    second = bundle.manifest.stages[1].companions
    assert [(spec.name, spec.dtype, spec.shape) for spec in second.values()] == [
        ("b1", "float32", ("batch", 2, 2)),
        ("k1", "int64", ("batch",)),
    ]
    assert warnings == []
    assert bundle.golden().exits.keys() == set(EXITS)


def test_companions_that_need_deeper_nodes_are_computed_early_and_a_warning_says_so(file, tmp_path):
    bundle, warnings = compiled(file, tmp_path, {"boxes": ("b1", "b1", "b2")})
    plain, _ = compiled(file, tmp_path / "plain", {})
    assert bundle.manifest.stages[0].macs > plain.manifest.stages[0].macs
    assert bundle.manifest.macs[-1] == plain.manifest.macs[-1] + 2 * 32
    (warning,) = warnings
    assert (
        warning
        == "the companions of exit 'e0' need 64 MACs of deeper exits; every sample that reaches 'e0' pays for them"
    )


def test_an_exit_whose_nodes_an_earlier_companion_needs_is_refused(tmp_path):
    body = "h = MatMul(x, a) e0 = Relu(h) e1 = MatMul(h, c) c0 = Relu(e1) c1 = Neg(e1)"
    path = graphs.two_heads(tmp_path / "m.onnx", body, "float[N,3] e0, float[N,3] e1, float[N,3] c0, float[N,3] c1")
    with pytest.raises(
        CompileError, match="exit 'e1' adds no node after 'e0': the companions of earlier exits need all"
    ):
        compile_bundle(path, tmp_path / "bundle", CompileOptions(exits=["e0", "e1"], companions={"next": ("c0", "c1")}))


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=EXACT_INT8)])
def test_companions_keep_their_types_in_a_reduced_precision(file, tmp_path, precision):
    companions = {"boxes": BOXES, "feature": ("k0", "k1", "k2"), "stem": ("stem",) * 3}
    bundle, _ = compiled(file, tmp_path, companions, precision=precision, example=rows(32, seed=5))
    samples = rows(20, seed=5)
    with Runner(bundle) as runner:
        exits = [0, 1, 2, 2, 1, 0] * 3
        result = runner.infer({"x": samples["x"][:18]}, policy=policy_that_takes(exits, of=3))
    assert {name: array.dtype.name for name, array in result.companions.items()} == {
        "boxes": "float32", "feature": "int64", "stem": "float32"
    }  # fmt: skip
    boxes = [outputs_of(file, samples)(name) for name in BOXES]
    expected = np.stack([boxes[k][row] for row, k in enumerate(exits)])
    assert np.abs(result.companions["boxes"] - expected).max() < 0.1 * np.abs(expected).max()


class Detector(torch.nn.Module):
    """Two exits, each with boxes, their scores, and embeddings of the tokens; nested, with values that are neither."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 6)
        self.layer = torch.nn.Linear(6, 6)
        self.head = torch.nn.Linear(6, 3)
        self.box = torch.nn.Linear(6, 8)

    def forward(self, ids):
        tokens = self.embed(ids)
        found = []
        for _ in range(2):
            tokens = torch.relu(self.layer(tokens)) + tokens
            pooled = tokens.mean(1)
            boxes = self.box(pooled).reshape(-1, 2, 4)
            found.append({"logits": self.head(pooled), "boxes": boxes, "tokens": tokens, "large": boxes.amax(2) > 0})
        return {"exits": found, "note": "beside", "length": ids.shape[1], "none": None}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    torch.manual_seed(0)
    module = Detector().eval()
    options = CompileOptions(
        inputs=["ids:n,length:int64"],
        exits=["exits.*.logits"],
        companions={"boxes": ["exits.*.boxes"], "tokens": ["exits.*.tokens"], "large": ["exits.*.large"]},
    )
    return module, compile_bundle(module, tmp_path_factory.mktemp("detector") / "bundle", options)


@pytest.mark.parametrize("length", [3, 16])
def test_nested_outputs_of_a_torch_module_and_symbolic_dimensions(detector, length):
    module, bundle = detector
    ids = np.random.default_rng(length).integers(0, 20, (9, length))
    with torch.no_grad():
        returned = module(torch.from_numpy(ids))["exits"]
    companions = {name: [(k, name) for k in range(2)] for name in ("boxes", "tokens", "large")}
    assert_delivered(bundle, lambda output: returned[output[0]][output[1]].numpy(), companions, {"ids": ids}, atol=1e-4)
    assert bundle.manifest.stages[0].companions["tokens"].shape == ("batch", "length", 6)


def test_without_companions_the_exits_are_the_outputs_that_are_no_companions(file, tmp_path):
    companions = {"boxes": BOXES, "feature": ("k?",), "rest": ("stem", "stem", "stem")}
    with pytest.raises(
        CompileError, match=r"companion 'boxes' has 3 outputs \('b0', .*\) for 4 exits .*'total'\); give"
    ):
        compile_bundle(file, tmp_path / "bundle", CompileOptions(companions=companions))


@pytest.mark.parametrize(
    ("companions", "message"),
    [
        (
            {"boxes": ("b0", "b1")},
            r"companion 'boxes' has 2 outputs \('b0', 'b1'\) for 3 exits \('e0', 'e1', 'e2'\); give",
        ),
        ({"boxes": ("b0", "b1", "c2")}, "there is no output of companion 'boxes': 'c2'; "),
        ({"boxes": ("c*",)}, r"there is no output of companion 'boxes': 'c\*'; the model has 'e0', "),
        ({"boxes": ("b0", "b1", "e2")}, "companion 'boxes': output 'e2' is an exit"),
        (
            {"boxes": ("b0", "b1", "stem")},
            r"companion 'boxes': its outputs are different: 'b0' \[batch, 2, 2\] float32, 'ste",
        ),
        ({"total": ("total",) * 3}, "companion 'total': output 'total' is 1x1 for a batch of "),
        ({"a box": BOXES}, "companion 'a box': a name has at most 64 letters"),
    ],
)
def test_companions_that_do_not_fit_are_refused_in_one_line(file, tmp_path, companions, message):
    with pytest.raises(CompileError, match=f"^{message}") as caught:
        compiled(file, tmp_path, companions)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_outputs_that_are_both_exits_and_companions_are_listed(file, tmp_path):
    options = CompileOptions(exits=["e?"], companions={"boxes": ("e0", "e1", "b2")})
    with pytest.raises(CompileError, match=r"^--exits and --companion both select 'e0', 'e1'; an output is either"):
        compile_bundle(file, tmp_path / "bundle", options)


def test_a_companion_that_mixes_the_samples_of_a_batch_is_refused(tmp_path):
    mixing = """
    <ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x) => (float[N,3] e0, float[N,3] e1, float[N,8] c0, float[N,8] c1) {
      h0 = MatMul(x, w0)
      e0 = MatMul(h0, head)
      h1 = Relu(h0)
      e1 = MatMul(h1, head)
      first = Gather(h0, zero)
      c0 = Sub(h0, first)
      c1 = Identity(h1)
    }
    """
    path = graphs.save_graph(tmp_path / "mixing.onnx", mixing, w0=(8, 8), head=(8, 3), zero=np.array(0))
    options = CompileOptions(exits=["e0", "e1"], companions={"centred": ("c0", "c1")})
    with pytest.raises(
        CompileError, match="companion 'centred': output 'c0' is different when other samples exit; does"
    ):
        compile_bundle(path, tmp_path / "bundle", options)


def test_companions_are_compared_with_torch():
    companions = (Companion("box", "e0", "b", "b"), Companion("hit", "e0", "h", "h"))
    values = {"b": np.array([[1.0], [np.inf], [np.nan]], np.float32), "h": np.array([1, 2, 3])}
    check_companions_against_torch(companions, values, {"b": values["b"] * 1.0001, "h": values["h"]}, FP32)
    with pytest.raises(CompileError, match=r"output 'h' differs between the exported graph and torch; .* 33.3% of"):
        check_companions_against_torch(companions, values, {"b": values["b"], "h": np.array([1, 2, 4])}, FP32)
    with pytest.raises(CompileError, match=r"output 'b' differs .* \(largest difference inf"):
        check_companions_against_torch(companions, values, {"b": np.zeros((3, 1), np.float32), "h": values["h"]}, FP32)


def test_a_companion_that_is_no_tensor_of_numbers_is_refused(tmp_path):
    body = "e0 = MatMul(x, a) c0 = Cast<to = 8>(e0) e1 = MatMul(e0, c) c1 = Cast<to = 8>(e1)"
    outputs = "float[N,3] e0, float[N,3] e1, string[N,3] c0, string[N,3] c1"
    path = graphs.two_heads(tmp_path / "m.onnx", body, outputs)
    with pytest.raises(CompileError, match=r"^companion 'box': output 'c0' is string; return a type of numpy"):
        compile_bundle(path, tmp_path / "bundle", CompileOptions(companions={"box": ("c0", "c1")}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.bfloat16), "^companion 'boxes.0' is 2x4 bfloat16; return real numbers"),
        (torch.zeros(2, 4, dtype=torch.complex64), "^companion 'boxes.0' is 2x4 complex64; return real numbers"),
        ("text", "^companion 'boxes.0' is str; a companion must be a tensor"),
    ],
)
def test_companions_of_torch_that_numpy_cannot_hold_are_refused(value, message):
    outputs = flatten_outputs({"logits": [torch.zeros(2, 3)] * 2, "boxes": [value] * 2})
    with pytest.raises(CompileError, match=message):
        choose_outputs(outputs, ["logits.*"], {"box": ["boxes.0", "boxes.1"]})


def test_an_output_that_several_exits_share_has_one_tensor_for_each():
    found = assign_companions({"box": ("b", "b"), "other": ("b", "c")}, ("e0", "e1"))
    assert found == (
        Companion("box", "e0", "b", "b"),
        Companion("other", "e0", "b", "b.1"),
        Companion("box", "e1", "b", "b.2"),
        Companion("other", "e1", "c", "c"),
    )


def test_the_command_line_form_is_parsed():
    assert parse_companions(["boxes=b0, b1,b2", "gate=g*"]) == {"boxes": ("b0", "b1", "b2"), "gate": ("g*",)}
    for text in ("boxes", "=b0", "boxes=", "boxes=b0,,b1"):
        with pytest.raises(
            CompileError, match=f"^--companion '{text}' is not NAME=OUTPUT,OUTPUT,... with one output per"
        ):
            parse_companions([text])
    with pytest.raises(CompileError, match="--companion 'boxes' is given twice"):
        parse_companions(["boxes=b0", "boxes=b1"])
    check_companion_names(["boxes", "aux.0-x"])


def test_the_options_and_the_manifest_survive_json(file, tmp_path):
    bundle, _ = compiled(file, tmp_path, {"boxes": BOXES})
    assert msgspec.json.decode(msgspec.json.encode(bundle.manifest), type=type(bundle.manifest)) == bundle.manifest
