"""int8 models: Q/DQ pairs that both runtimes accept, exits in float32, rejected data, no temporary files left."""

import numpy as np
import onnx_ir as ir
import pytest

from edgeexit.compiler.export.model import export_model
from edgeexit.compiler.precision.reduce import reduce_precision
from edgeexit.datasets import Dataset
from edgeexit.errors import CompileError, DataError
from tests.compiler.networks import Masked, Residual
from tests.compiler.precision.reduced_graphs import Segmenter, nodes_of, outputs_of, read_text
from tests.cpu import EXACT_INT8
from tests.recorded_progress import RecordedProgress

HEADER = '<ir_version: 9, opset_import: ["": 18]>\n'
TWO_HEADS = (
    HEADER
    + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w) r = Relu(h) e0 = MatMul(r, a) d = Add(r, h) e1 = MatMul(d, b) }"""
)


def samples(count=64):
    return Dataset(inputs={"x": np.random.default_rng(1).standard_normal((count, 8)).astype(np.float32)})


def quantised(model, calibration, folder, **options):
    return reduce_precision(model, "int8", calibration=calibration, folder=folder, **options)


def assert_symmetric(model):
    pairs = [node for op in ("QuantizeLinear", "DequantizeLinear") for node in nodes_of(model, op)]
    assert pairs
    for node in pairs:
        zero = node.inputs[2].const_value.numpy()
        assert zero.dtype == np.int8
        assert not zero.any()


@pytest.fixture(scope="module")
def segmenter():
    images = np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32)
    return export_model(Segmenter(), inputs=(), example={"image": images}, opset=18).model, Dataset(
        inputs={"image": images}
    )


@pytest.mark.parametrize("placement", ["before", "around"])
def test_logits_are_close_to_fp32(tmp_path, segmenter, placement):
    model, calibration = segmenter
    reduced = quantised(model, calibration, tmp_path, placement=placement)
    assert_symmetric(reduced)
    expected, found = (outputs_of(m, calibration.inputs, tmp_path) for m in (model, reduced))
    for name, logits in expected.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - logits).mean() < 0.05 * np.abs(logits).mean() + 0.02
        assert (found[name] != logits).any()


def test_weights_have_one_scale_per_output_channel(tmp_path, segmenter):
    model, calibration = segmenter
    reduced = quantised(model, calibration, tmp_path)
    for op, axis in (("Conv", 0), ("ConvTranspose", 1)):
        for node in nodes_of(reduced, op):
            dequantize = node.inputs[1].producer()
            weights, scales = (value.const_value for value in dequantize.inputs[:2])
            assert weights.dtype == ir.DataType.INT8
            assert dequantize.attributes["axis"].as_int() == axis
            assert scales.shape == (weights.shape[axis],)
            if len(node.inputs) > 2:
                assert node.inputs[2].const_value.dtype == ir.DataType.FLOAT


def test_every_value_is_quantised_once(tmp_path):
    model = read_text(tmp_path, TWO_HEADS, w=(8, 8), a=(8, 3), b=(8, 3))
    reduced = quantised(model, samples(), tmp_path, placement="before")
    pairs = nodes_of(reduced, "QuantizeLinear")
    assert len({node.inputs[0] for node in pairs}) == len(pairs) == 3  # x, r and d
    (r,) = nodes_of(reduced, "Relu")
    assert [node.op_type for node in r.outputs[0].consumers()] == ["QuantizeLinear"]


@pytest.mark.parametrize(
    "tail", ["e1 = Conv(r, v)", "deep = Conv(r, v) e1 = Relu(deep)", "e1 = Conv(r, v) more = Relu(e1)"]
)
def test_exits_are_not_quantised(tmp_path, tail):
    text = (
        HEADER
        + f"""g (float[N,3,4,4] x) => (float[N,2,M,K] e0, float[N,2,M,K] e1) {{
      h = Conv(x, w) r = Relu(h) e0 = Conv(h, v) {tail} }}"""
    )
    model = read_text(tmp_path, text, w=(4, 3, 1, 1), v=(2, 4, 1, 1))
    images = np.random.default_rng(0).standard_normal((40, 3, 4, 4)).astype(np.float32)
    reduced = quantised(model, Dataset(inputs={"x": images}), tmp_path)
    assert [value.name for value in reduced.graph.outputs] == ["e0", "e1"]
    assert {value.producer().op_type for value in reduced.graph.outputs} <= {"Conv", "Relu"}
    quantised_values = {node.inputs[0].name for node in nodes_of(reduced, "QuantizeLinear")}
    assert quantised_values == {"x", "h", "r"}
    outputs_of(reduced, {"x": images}, tmp_path)


def test_an_exit_that_a_later_node_reads_is_not_quantised(tmp_path):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      e0 = MatMul(x, w) r = Relu(e0) e1 = MatMul(r, c) }"""
    )
    model = read_text(tmp_path, text, w=(8, 3), c=(3, 3))
    reduced = quantised(model, samples(), tmp_path, placement="around")
    source = reduced.graph.outputs[0].producer()
    while source.op_type == "Identity":
        source = source.inputs[0].producer()
    assert source.op_type == "MatMul"


@EXACT_INT8
def test_batch_norms_are_folded_unless_they_are_kept_in_fp32(tmp_path):
    text = (
        HEADER
        + """g (float[N,3,4,4] x) => (float[N,2] e0, float[N,2] e1) {
      h = Conv(x, w) n = BatchNormalization(h, scale, shift, mean, variance) r = Relu(n)
      p = GlobalAveragePool(r) f = Flatten(p) e0 = MatMul(f, a) t = Tanh(f) e1 = MatMul(t, a) }"""
    )
    numbers = np.random.default_rng(3).uniform(0.5, 2, (4, 4)).astype(np.float32)
    norm = dict(zip(("scale", "shift", "mean", "variance"), numbers, strict=True))
    model = read_text(tmp_path, text, w=(4, 3, 1, 1), a=(4, 2), **norm)
    images = np.random.default_rng(0).standard_normal((40, 3, 4, 4)).astype(np.float32)
    data = Dataset(inputs={"x": images})
    reduced = quantised(model, data, tmp_path)
    assert not nodes_of(reduced, "BatchNormalization")
    expected, found = (outputs_of(m, {"x": images}, tmp_path)["e1"] for m in (model, reduced))
    np.testing.assert_allclose(found, expected, atol=0.1)
    for pattern in ("h", "w", "BatchNormalization"):
        kept = quantised(model, data, tmp_path, keep_fp32=[pattern])
        (conv,) = nodes_of(kept, "Conv")
        assert conv.inputs[1].is_initializer()


def test_the_beta_of_a_gemm_is_preserved(tmp_path):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      e0 = Gemm<beta = 0.5>(x, a, bias) r = Relu(x) e1 = MatMul(r, a) }"""
    )
    model = read_text(tmp_path, text, a=(8, 3), bias=np.float32([100, 0, -100]))
    reduced = quantised(model, samples(), tmp_path)
    expected, found = (outputs_of(m, samples().inputs, tmp_path)["e0"] for m in (model, reduced))
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_token_ids_and_masks_get_no_range(tmp_path):
    rng = np.random.default_rng(0)
    inputs = {"ids": rng.integers(0, 50, (40, 6)), "mask": np.ones((40, 6), dtype=np.int64)}
    model = export_model(Masked(), inputs=(), example=inputs, opset=18).model
    reduced = quantised(model, Dataset(inputs=inputs), tmp_path)
    assert_symmetric(reduced)
    outputs_of(reduced, inputs, tmp_path)


def test_the_same_data_give_the_same_bytes_and_leave_no_files(tmp_path, segmenter):
    model, calibration = segmenter
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    first, second = (ir.to_proto(quantised(model, calibration, scratch)).SerializeToString() for _ in range(2))
    assert first == second
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(("value", "text"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_calibration_data_with_nan_or_infinity_are_rejected(tmp_path, value, text):
    model = read_text(tmp_path, TWO_HEADS, w=(8, 8), a=(8, 3), b=(8, 3))
    data = samples()
    data.inputs["x"][[17, 40], 3] = value
    with pytest.raises(DataError, match=f"'x' has {text} in sample 17; 2 of 64"):
        quantised(model, data, tmp_path)


def test_a_value_that_becomes_infinite_is_named(tmp_path):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      zero = Sub(x, x) h = Log(zero) e0 = MatMul(h, a) r = Relu(x) e1 = MatMul(r, a) }"""
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(CompileError, match="'h' becomes NaN or infinite"):
        quantised(read_text(tmp_path, text, a=(8, 3)), samples(), scratch)
    assert not list(scratch.iterdir())


def test_few_samples_give_a_warning(tmp_path):
    progress = RecordedProgress()
    model = read_text(tmp_path, TWO_HEADS, w=(8, 8), a=(8, 3), b=(8, 3))
    quantised(model, samples(31), tmp_path, progress=progress)
    assert [warning.split()[0] for warning in progress.warnings] == ["31"]
    quantised(model, samples(32), tmp_path, progress=progress)
    assert len(progress.warnings) == 1


def test_a_model_that_cannot_be_quantised_is_an_error_with_the_reason(tmp_path):
    model = read_text(tmp_path, TWO_HEADS, w=(8, 8), a=(8, 3), b=(8, 3))
    with pytest.raises(CompileError, match="--calibration"):
        quantised(model, None, tmp_path)
    with pytest.raises(CompileError, match="nothing to quantise"):
        quantised(model, samples(), tmp_path, keep_fp32=["MatMul"])
    with pytest.raises(CompileError, match="already quantised"):
        quantised(quantised(model, samples(), tmp_path), samples(), tmp_path)


def test_external_weights_are_read(tmp_path):
    model = read_text(tmp_path, TWO_HEADS, w=(8, 8), a=(8, 3), b=(8, 3))
    expected = ir.to_proto(quantised(model, samples(), tmp_path)).SerializeToString()
    ir.save(model, tmp_path / "outside.onnx", external_data="outside.data", size_threshold_bytes=0)
    outside = ir.load(tmp_path / "outside.onnx")
    assert ir.to_proto(quantised(outside, samples(), tmp_path)).SerializeToString() == expected


def test_a_residual_torch_model_is_quantised(tmp_path, images):
    model = export_model(Residual(), inputs=(), example={"image": images}, opset=13).model
    reduced = quantised(model, Dataset(inputs={"image": images}), tmp_path)
    expected, found = (outputs_of(m, {"image": images}, tmp_path) for m in (model, reduced))
    np.testing.assert_allclose(found["exit1"], expected["exit1"], atol=0.05)


def test_the_carries_of_a_densely_connected_network_are_int8(tmp_path):
    """Every stage recomputes the Concat, so the inputs of the Concat are the carries."""
    text = (
        HEADER
        + """g (float[N,3,4,4] x) => (float[N,2] e0, float[N,2] e1) {
      h = Conv(x, w) r = Relu(h) c = Concat<axis = 1>(x, r) d = Conv(c, v)
      p = GlobalAveragePool(r) f = Flatten(p) e0 = MatMul(f, a)
      q = GlobalAveragePool(d) g = Flatten(q) e1 = MatMul(g, a) }"""
    )
    model = read_text(tmp_path, text, w=(4, 3, 1, 1), v=(4, 7, 1, 1), a=(4, 2))
    images = np.random.default_rng(0).standard_normal((40, 3, 4, 4)).astype(np.float32)
    reduced = quantised(model, Dataset(inputs={"x": images}), tmp_path, placement="before")
    (concat,) = nodes_of(reduced, "Concat")
    assert [value.producer().op_type for value in concat.inputs] == ["DequantizeLinear"] * 2


def test_a_concat_that_is_not_of_maps_is_not_quantised(tmp_path):
    text = (
        HEADER
        + """g (float[N,3,4,4] x) => (float[N,2,M,K] e0, float[N,2,M,K] e1) {
      e0 = Conv(x, v) size = Shape(x) first = Slice(size, zero, one) batch = Cast<to = 1>(first)
      part = Div(batch, batch) scales = Concat<axis = 0>(part, part, two, two)
      y = Resize<mode = "nearest">(x, none, scales) e1 = Conv(y, v) }"""
    )
    numbers = {"zero": np.array([0]), "one": np.array([1]), "two": np.float32([1.51])}
    model = read_text(tmp_path, text, v=(2, 3, 1, 1), none=np.empty(0, dtype=np.float32), **numbers)
    images = np.random.default_rng(0).standard_normal((40, 3, 4, 4)).astype(np.float32)
    reduced = quantised(model, Dataset(inputs={"x": images}), tmp_path)
    (concat,) = nodes_of(reduced, "Concat")
    assert "DequantizeLinear" not in {value.producer().op_type for value in concat.inputs if value.producer()}
    outputs_of(reduced, {"x": images}, tmp_path)


TAIL = " e0 = MatMul(h, a) r = Relu(h) e1 = MatMul(r, a) }"
HALF = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float16)


@pytest.mark.parametrize(
    ("body", "weights", "quantised_count"),
    [
        ("h = Gemm(x, w, bias)", {"w": (8, 8), "bias": (1, 8)}, 3),
        ("n = Cast<to = 10>(x) m = MatMul(n, half) h = Cast<to = 1>(m)", {"half": HALF}, 2),
        ("n = Cast<to = 11>(x) m = MatMul(n, wide) h = Cast<to = 1>(m)", {"wide": HALF.astype(np.float64)}, 2),
        ("y = Unsqueeze(x, one) m = MatMul(y, w) h = Squeeze(m, one)", {"w": (1, 8, 8), "one": np.array([1])}, 2),
        ("s = MatMul(x, v) c = Unsqueeze(s, one) h = Mul(x, c)", {"v": (8,), "one": np.array([1])}, 2),
        ("q = MatMul(x, w) h = Gemm<transB = 1>(q, w)", {"w": (8, 8)}, 4),
        ("q = MatMul(x, w) g = Relu(q) h = Gemm<alpha = 0.3, transB = 1>(g, v)", {"w": (8, 8), "v": (8, 8)}, 4),
        ("n = Sub(x, far) d = Relu(n) m = MatMul(d, w) h = Add(m, x)", {"w": (8, 8), "far": np.float32([50])}, 3),
        ("d = Abs(x) n = Neg(d) h = MatMul(n, w)", {"w": (8, 8)}, 3),
        ("m = MatMul(x, none) h = Add(m, x)", {"none": np.zeros((8, 8), np.float32)}, 3),
    ],
    ids=[
        "bias of two dimensions", "float16", "float64", "batch of one matrix", "vector", "weight along two axes",
        "scaled and transposed", "zero activations", "negative", "zero weights",
    ],
)  # fmt: skip
@pytest.mark.parametrize("placement", ["before", "around"])
def test_every_form_of_a_matmul_is_close_to_fp32(tmp_path, body, weights, quantised_count, placement):
    text = HEADER + "g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {" + body + TAIL
    model = read_text(tmp_path, text, a=(8, 3), **weights)
    data = samples(256)
    reduced = quantised(model, data, tmp_path, placement=placement)
    assert_symmetric(reduced)
    quantised_weights = [
        node
        for op in ("MatMul", "Gemm")
        for node in nodes_of(reduced, op)
        if node.inputs[1].producer() is not None and node.inputs[1].producer().op_type == "DequantizeLinear"
    ]
    assert len(quantised_weights) == quantised_count
    for node in quantised_weights:
        weight = node.inputs[1].producer()
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0)
        assert weight.attributes["axis"].as_int() == (0 if transposed else 1)
    expected, found = (outputs_of(m, data.inputs, tmp_path) for m in (model, reduced))
    for name, logits in expected.items():
        assert np.abs(found[name] - logits).mean() < 0.05 * np.abs(logits).max()


def test_a_large_bias_does_not_coarsen_the_weights(tmp_path):
    text = HEADER + "g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) { h = Gemm(x, w, bias)" + TAIL
    scales = []
    for bias in (0, 1e9):
        model = read_text(tmp_path, text, a=(8, 3), w=(8, 8), bias=np.full(8, bias, np.float32))
        reduced = quantised(model, samples(), tmp_path)
        (gemm,) = nodes_of(reduced, "Gemm")
        scales.append(gemm.inputs[1].producer().inputs[1].const_value.numpy())
    np.testing.assert_array_equal(*scales)


def test_a_float16_model_is_rejected_with_one_line(tmp_path):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,8] e0, float[N,8] e1) {
      n = Cast<to = 10>(x) m = MatMul(n, half) e0 = Cast<to = 1>(m) t = Tanh(m) k = MatMul(t, half)
      e1 = Cast<to = 1>(k) }"""
    )
    with pytest.raises(CompileError, match=r"nothing to quantise.*export the model in float32"):
        quantised(read_text(tmp_path, text, half=HALF), samples(), tmp_path)
