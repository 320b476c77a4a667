"""Forms of exits: what a model returns, the standard logits that are compiled, and the errors for other outputs."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.exits.forms import ExitForm, cast_exits, convert_exits, find_forms, to_logits
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph
from tests.compiler.staged_run import run_stages
from tests.cpu import EXACT_INT8
from tests.recorded_progress import RecordedProgress

BINARY_LINE = "the exits return one logit z per {}, which is compiled as two classes with the logits [0, z]: "


def outputs_of(*shapes):
    """Return what the exits 'e0', 'e1', ... return for one sample: consecutive numbers."""
    return {f"e{index}": np.arange(np.prod(shape)).reshape(shape) + 1.0 for index, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    ("task", "shapes", "found_task", "logits"),
    [
        (None, [(1, 3), (1, 3)], "classification", (1, 3)),
        (None, [(1, 1), (1, 1)], "classification", (1, 2)),
        (None, [(1,), (1,)], "classification", (1, 2)),
        (None, [(1,), (1, 1)], "classification", (1, 2)),
        (None, [(1, 3, 1, 1), (1, 3, 1, 1)], "classification", (1, 3)),
        (None, [(1, 3, 1, 1), (1, 3)], "classification", (1, 3)),
        (None, [(1, 3, 1, 1, 1), (1, 3)], "classification", (1, 3)),
        (None, [(1, 1, 1, 1), (1, 1, 1, 1)], "classification", (1, 2)),
        ("classification", [(1, 1, 3), (1, 3, 1)], "classification", (1, 3)),
        ("classification", [(1, 1, 1), (1,)], "classification", (1, 2)),
        ("segmentation", [(1, 3, 1, 1), (1, 3, 1, 1)], "segmentation", (1, 3, 1, 1)),
        (None, [(1, 3, 4, 5), (1, 3, 4, 5)], "segmentation", (1, 3, 4, 5)),
        (None, [(1, 1, 4, 5), (1, 1, 4, 5)], "segmentation", (1, 2, 4, 5)),
        ("tagging", [(1, 7, 3), (1, 7, 3)], "tagging", (1, 3, 1, 7)),
        ("tagging", [(1, 7, 1), (1, 7)], "tagging", (1, 2, 1, 7)),
    ],
)
def test_every_form_becomes_standard_logits_of_its_task(task, shapes, found_task, logits):
    outputs = outputs_of(*shapes)
    found = find_forms(outputs, task=task)
    assert found.task == found_task
    for name, array in outputs.items():
        converted = to_logits(array, found.forms[name])
        assert converted.shape == logits
        assert converted.dtype == np.float32


def test_one_logit_becomes_two_classes_whose_softmax_is_the_sigmoid():
    z = np.array([[-2.0], [0.5]])
    logits = to_logits(z, ExitForm(binary=True))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax[:, 1:], 1 / (1 + np.exp(-z)), rtol=1e-6)


def test_the_logits_of_a_token_are_a_column_of_the_map():
    tokens = np.random.default_rng(0).standard_normal((2, 7, 3))
    maps = to_logits(tokens, ExitForm(transpose=(0, 2, 1), unsqueeze=(2,)))
    np.testing.assert_array_equal(maps[1, :, 0, 4], tokens[1, 4].astype(np.float32))


@pytest.mark.parametrize(
    ("task", "shapes", "lines"),
    [
        (None, [(1, 3)], []),
        ("classification", [(1, 3, 1, 1)], []),
        (
            None,
            [(1, 3, 1, 1), (1, 3)],
            ["exit 'e0' is [batch, 3, 1, 1]: compiled for classification, without the dimensions of size 1; give"],
        ),
        (None, [(1, 1), (1, 1)], [BINARY_LINE.format("sample")]),
        (None, [(1, 1, 4, 5)], [BINARY_LINE.format("pixel")]),
        ("tagging", [(1, 7)], [BINARY_LINE.format("token")]),
    ],
)
def test_a_conversion_that_may_be_unexpected_gives_a_warning(task, shapes, lines):
    found = find_forms(outputs_of(*shapes), task=task).warnings
    assert len(found) == len(lines)
    assert all(warning.startswith(line) for warning, line in zip(found, lines, strict=True))


@pytest.mark.parametrize(
    ("task", "shapes", "message"),
    [
        (None, [(1, 7, 3)] * 2, r"^exits 'e0', 'e1' are \[batch, 7, 3\]: .*give --task tagging; .*transpose\(1, 2\)"),
        (None, [(1, 3), (1, 7, 3)], "different numbers of dimensions: 'e0' 2, 'e1' 3; select exits with --exits$"),
        (None, [(1, 3), (1, 3, 1)], "'e0' 2, 'e1' 3; select exits with --exits, or give --task classification if"),
        (None, [(1, 3), (1, 3, 4, 5)], "different numbers of dimensions: 'e0' 2, 'e1' 4"),
        (None, [(1, 2, 3, 4, 5)], "'e0' is 1x2x3x4x5 for a batch of 1"),
        (None, [(1, 3), ()], "'e1' is a scalar for a batch of 1"),
        (None, [(2, 3)], "'e0' is 2x3 for a batch of 1"),
        ("classification", [(1, 7, 3)], "'e0' is 1x7x3 .*for classification, .*for logits per token, give --task tagg"),
        ("segmentation", [(1, 3, 9)], r"'e0' is 1x3x9 .*\[batch, classes, height, width\]; .*--task tagging"),
        ("tagging", [(1, 3, 4, 5)], r"'e0' is 1x3x4x5 .*for tagging, .*\[batch, tokens, classes\]"),
    ],
)
def test_an_error_names_the_exit_its_shape_and_what_to_do(task, shapes, message):
    with pytest.raises(CompileError, match=message):
        find_forms(outputs_of(*shapes), task=task)


def test_maps_that_are_one_pixel_only_for_these_samples_need_the_task():
    outputs = outputs_of((1, 3, 1, 1), (1, 3, 1, 1))
    with pytest.raises(CompileError, match=r"\[batch, 3, 1, 1\] for these samples: give --task classification if"):
        find_forms(outputs, task=None, unsure=["e0", "e1"])
    assert find_forms(outputs, task="segmentation", unsure=["e0", "e1"]).task == "segmentation"


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ("float[N,3,1,1]", ExitForm(squeeze=(2, 3))),
        ("float[N]", ExitForm(unsqueeze=(1,), binary=True)),
        ("float[N,1,4,5]", ExitForm(binary=True)),
        ("float[N,7,3]", ExitForm(transpose=(0, 2, 1), unsqueeze=(2,))),
        ("float[N,7]", ExitForm(unsqueeze=(1, 2), binary=True)),
        ("float[N,1,1]", ExitForm(squeeze=(2,), binary=True)),
    ],
)
def test_the_graph_computes_the_same_logits_as_the_conversion_of_arrays(shape, form):
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({shape} x, float[N,3] y) => ({shape} e0, float[N,3] e1) {{'
    model = ir.from_proto(onnx.parser.parse_model(text + "e0 = Neg(x) e1 = Relu(y) }"))
    convert_exits(model, {"e0": form, "e1": ExitForm()})
    assert [value.name for value in model.graph.outputs] == ["e0", "e1"]
    sizes = [2, *(value for value in model.graph.inputs[0].shape[1:])]
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    found, other = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x, "y": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(found, to_logits(-x, form))
    assert list(model.graph.outputs[0].shape)[1:] == list(found.shape[1:])
    assert other.shape == (2, 3)


@pytest.mark.parametrize(("number", "dtype"), [(10, "float16"), (11, "double"), (16, "bfloat16")])
def test_other_floats_are_cast_to_float32(number, dtype):
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,3] x) => ({dtype}[N,3] e0) {{'
    model = ir.from_proto(onnx.parser.parse_model(text + f"e0 = Cast<to = {number}>(x) }}"))
    cast_exits(model, ["e0"])
    (exit_value,) = model.graph.outputs
    assert (exit_value.name, exit_value.dtype, exit_value.producer().op_type) == ("e0", ir.DataType.FLOAT, "Cast")


HEAD = "h = MatMul(x, a) r = Relu(h) s = MatMul(r, a) "


def compiled(folder, body, outputs, progress=None, **options):
    """Compile an ONNX graph of two exits on x [N, 8] with weights a [8, 8], head [8, 3] and one [8, 1]."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => ({outputs}) {{ {HEAD}{body} }}'
    path = save_graph(folder / "model.onnx", text, a=(8, 8), head=(8, 3), one=(8, 1))
    kwargs = {} if progress is None else {"progress": progress}
    return compile_bundle(path, folder / "bundle", CompileOptions(**options), **kwargs), path


@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("int8", marks=EXACT_INT8)])
def test_a_binary_file_has_two_classes_in_every_precision(tmp_path, precision):
    progress = RecordedProgress()
    x = np.random.default_rng(3).standard_normal((64, 8)).astype(np.float32)
    body = "e0 = MatMul(h, one) e1 = MatMul(s, one)"
    data = {"x": x, "labels": (x[:, 0] > 0).astype(np.int64)}
    names = ["no", "yes"]
    bundle, path = compiled(
        tmp_path, body, "float[N,1] e0, float[N,1] e1", progress,
        precision=precision, calibration=data, class_names=names,
    )  # fmt: skip
    assert (bundle.manifest.task, bundle.manifest.classes) == ("classification", 2)
    assert any("class 1 is the positive class" in warning for warning in progress.warnings)
    expected = ReferenceEvaluator(str(path)).run(None, {"x": x})
    found = run_stages(bundle, {"x": x})
    tolerance = {"fp32": 1e-5, "fp16": 0.05, "int8": 2.5}[precision]
    for name, z in zip(bundle.manifest.exits, expected, strict=True):
        np.testing.assert_allclose(found[name][:, 1:], z, atol=tolerance)
        assert not found[name][:, 0].any()
        np.testing.assert_array_equal(found[f"{name}.readout"][:, 0], found[name][:, 1] > 0)


def test_half_and_double_exits_ship_as_float32(tmp_path):
    body = "f0 = MatMul(h, head) f1 = MatMul(s, head) e0 = Cast<to = 10>(f0) e1 = Cast<to = 11>(f1)"
    bundle, _ = compiled(tmp_path, body, "float16[N,3] e0, double[N,3] e1")
    assert [stage.exit.dtype for stage in bundle.manifest.stages] == ["float32", "float32"]
    outputs = run_stages(bundle, {"x": np.ones((2, 8), np.float32)})
    assert [outputs[name].dtype for name in bundle.manifest.exits] == [np.float32, np.float32]


PROBABILITIES = {
    "Sigmoid": "p0 = MatMul(h, head) e0 = Sigmoid(p0) e1 = MatMul(s, head)",
    "HardSigmoid": "p0 = MatMul(h, head) e0 = HardSigmoid(p0) e1 = MatMul(s, head)",
    "limited": (
        "p0 = MatMul(h, head) q = Sigmoid(p0) low = Constant<value_float = 0.01>() high = Constant<value_float = 0.9>()"
        "e0 = Clip(q, low, high) e1 = MatMul(s, head)"
    ),
    "average of two": (
        "p0 = MatMul(h, head) p1 = MatMul(s, head) q0 = Sigmoid(p0) q1 = Sigmoid(p1) e0 = Mean(q0, q1)"
        "e1 = MatMul(s, head)"
    ),
}


@pytest.mark.parametrize("body", PROBABILITIES.values(), ids=PROBABILITIES.keys())
def test_an_exit_behind_a_sigmoid_is_rejected(tmp_path, body):
    with pytest.raises(CompileError, match=r"^exit 'e0' returns the output of a sigmoid; return logits, without"):
        compiled(tmp_path, body, "float[N,3] e0, float[N,3] e1", exits=["e0", "e1"])


@pytest.mark.parametrize("operator", ["ArgMax", "Greater"])
def test_predictions_in_a_float_tensor_are_no_logits(tmp_path, operator):
    values = {"ArgMax": "ArgMax<axis = 1, keepdims = 0>(p0)", "Greater": "Greater(p0, p1)"}
    body = f"p0 = MatMul(h, head) p1 = MatMul(s, head) i = {values[operator]} e0 = Cast<to = 1>(i) e1 = MatMul(s, head)"
    form = "float[N] e0" if operator == "ArgMax" else "float[N,3] e0"
    with pytest.raises(CompileError, match=rf"^exit 'e0' returns predictions \(the result of {operator}\); return the"):
        compiled(tmp_path, body, f"{form}, float[N,3] e1", exits=["e0", "e1"])


ACCEPTED = {
    "LogSoftmax": "p = MatMul(h, head) e0 = LogSoftmax<axis = 1>(p) e1 = MatMul(s, head)",
    "gate": "g = Sigmoid(h) m = Mul(h, g) e0 = MatMul(m, head) e1 = MatMul(s, head)",
    "SiLU": "p = MatMul(h, head) q = Sigmoid(p) e0 = Mul(p, q) e1 = MatMul(s, head)",
    "attention": "t = Softmax<axis = 1>(h) e0 = MatMul(t, head) e1 = MatMul(s, head)",
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_sigmoids_inside_the_model_and_log_softmax_are_accepted(tmp_path, body):
    bundle, _ = compiled(tmp_path, body, "float[N,3] e0, float[N,3] e1")
    assert bundle.manifest.classes == 3


def test_the_calibration_data_may_have_another_number_of_tokens_than_the_example(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[N,T,8] x) => (float[N,T,3] e0, float[N,T,3] e1) {'
    text += f"{HEAD} e0 = MatMul(h, head) e1 = MatMul(s, head) }}"
    path = save_graph(tmp_path / "model.onnx", text, a=(8, 8), head=(8, 3))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20, 5, 8)).astype(np.float32)
    labels = np.full((20, 5), -100)
    labels[:, :2] = ReferenceEvaluator(str(path)).run(["e1"], {"x": x})[0].argmax(axis=2)[:, :2]
    options = CompileOptions(
        task="tagging",
        precision="fp16",
        example={"x": rng.standard_normal((9, 7, 8)).astype(np.float32)},
        calibration={"x": x, "labels": labels},
    )
    fidelity = compile_bundle(path, tmp_path / "bundle", options).manifest.fidelity
    assert fidelity is not None
    assert fidelity.exits["e1"].accuracy_fp32 == 1


@pytest.mark.parametrize(
    ("task", "body", "outputs", "message"),
    [
        (None, "e0 = Squeeze(p, last) e1 = Squeeze(q, last)", "float[N,T]", "'T' of an input; for one logit per token"),
        (
            "tagging",
            "e0 = Transpose<perm = [0, 2, 1]>(p) e1 = Transpose<perm = [0, 2, 1]>(q)",
            "float[N,1,T]",
            r"exit 'e0' has as many classes as the size 'T' of an input; .*logits.transpose\(1, 2\)",
        ),
    ],
)
def test_a_number_of_classes_that_depends_on_the_length_is_rejected(tmp_path, task, body, outputs, message):
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,T,8] x) => ({outputs} e0, {outputs} e1) {{'
    text += f"{HEAD} p = MatMul(h, one) q = MatMul(s, one) last = Constant<value_ints = [2]>() {body} }}"
    path = save_graph(tmp_path / "model.onnx", text, a=(8, 8), one=(8, 1))
    with pytest.raises(CompileError, match=message):
        compile_bundle(path, tmp_path / "bundle", CompileOptions(task=task))
