"""Attention masks in float16: all ways to write one behave alike, and rows that are masked entirely stay finite.

On CPUs, ONNX Runtime computes float16 in float32, which hides overflows, so these tests use ONNX's reference evaluator.
"""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from edgeexit.compiler.precision.masks import MASK_LIMIT, MaskNumbers
from edgeexit.compiler.precision.reduce import reduce_precision
from tests.compiler.precision.reduced_graphs import nodes_of, read_text
from tests.recorded_progress import RecordedProgress

LOWEST = float(np.finfo(np.float32).min)
FILLS = (-1e4, -65504.0, -1e6, -1e9, LOWEST)
FORMS = {
    "filled": "scores = Where(m, h, fill)",
    "added": "bias = Where(m, zero, fill) scores = Add(h, bias)",
    "added twice": "bias = Where(m, zero, fill) once = Add(h, bias) scores = Add(once, bias)",
    "scaled": "kept = Cast<to = 1>(m) masked = Sub(one, kept) bias = Mul(masked, fill) scores = Add(h, bias)",
    "subtracted": "kept = Cast<to = 1>(m) gone = Sub(kept, one) bias = Mul(gone, fill) scores = Sub(h, bias)",
    "from a table": "bias = Where(m, zero, table) scores = Add(h, bias)",
    "from sizes": "size = Shape(m) row = ConstantOfShape<value = float[1] {FILL}>(size) scores = Where(m, h, row)",
    "with a floor": "bias = Where(m, zero, fill) low = Add(h, bias) scores = Max(low, fill)",
}


def masked_softmax(folder, form, fill):
    """Return a model that computes the softmax of masked scores, which are those of its input `x`."""
    text = f"""<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x, bool[N,8] m) => (float[N,8] e0, float[N,8] e1) {{
      h = MatMul(x, eye) {FORMS[form].replace("FILL", repr(fill))} e0 = Softmax(scores) e1 = MatMul(e0, eye) }}"""
    constants = {"one": np.float32([1]), "zero": np.float32([0]), "fill": np.float32([fill])}
    return read_text(
        folder, text, eye=np.eye(8, dtype=np.float32), table=np.full((1, 8), fill, dtype=np.float32), **constants
    )


def in_fp16(model, folder, **options):
    progress = RecordedProgress()
    return reduce_precision(model, "fp16", folder=folder, progress=progress, **options), progress.warnings


def run(model, inputs):
    """Return the first output, with every float16 node computed in float16."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(ir.to_proto(model)).run(None, dict(inputs))[0]


def types_of(model, op):
    return {node.outputs[0].dtype.name for node in nodes_of(model, op)}


@pytest.fixture
def inputs():
    """Scores from -40 to 40; one row without a mask, two with one, and two that are masked entirely."""
    x = np.linspace(-40, 40, 40, dtype=np.float32).reshape(5, 8)
    m = np.ones((5, 8), dtype=bool)
    m[1, 5:] = m[2, ::2] = m[3] = m[4] = False
    x[3] = np.linspace(-47, -40, 8)  # -65504 plus one of these is minus infinity in float16
    return {"x": x, "m": m}


@pytest.mark.parametrize("form", FORMS)
def test_every_number_for_infinity_gives_the_same_finite_softmax_in_float16(tmp_path, inputs, form):
    for fill in FILLS:
        model = masked_softmax(tmp_path, form, fill)
        reduced, warnings = in_fp16(model, tmp_path, samples=inputs)
        assert warnings == []
        assert types_of(reduced, "Softmax") == {"FLOAT16"}
        found, expected = run(reduced, inputs), run(model, inputs)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[:3], expected[:3], atol=2e-3)


@pytest.mark.parametrize("form", ["filled", "added", "added twice", "from a table"])
def test_minus_infinity_stays_minus_infinity_in_float16(tmp_path, inputs, form):
    inputs = {name: array[:3] for name, array in inputs.items()}  # a row of minus infinity is NaN in float32, too
    model = masked_softmax(tmp_path, form, -np.inf)
    reduced, warnings = in_fp16(model, tmp_path, samples=inputs)
    assert warnings == []
    assert types_of(reduced, "Softmax") == {"FLOAT16"}
    np.testing.assert_allclose(run(reduced, inputs), run(model, inputs), atol=2e-3)


def test_a_softmax_that_checks_for_minus_infinity_still_finds_it(tmp_path, inputs):
    """As PyTorch computes attention: a row that is masked entirely becomes 0."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x, bool[N,8] m) => (float[N,8] e0, float[N,8] e1) {
      h = MatMul(x, eye) bias = Where(m, zero, fill) scores = Add(h, bias) p = Softmax(scores) bad = IsNaN(p)
      e0 = Where(bad, zero, p) e1 = MatMul(e0, eye) }"""
    eye = np.eye(8, dtype=np.float32)
    model = read_text(tmp_path, text, eye=eye, zero=np.float32([0]), fill=np.float32([-np.inf]))
    reduced, warnings = in_fp16(model, tmp_path, samples=inputs)
    assert warnings == []
    found = run(reduced, inputs)
    assert (found[3:] == 0).all()
    np.testing.assert_allclose(found, run(model, inputs), atol=2e-3)


def test_a_mask_that_is_compared_with_its_number_is_compared_in_float32(tmp_path, inputs):
    """As transformers does, to unmask the rows that are masked entirely."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x, bool[N,8] m) => (float[N,8] e0, float[N,8] e1) {
      h = MatMul(x, eye) bias = Where(m, zero, fill) same = Equal(bias, fill) as_int = Cast<to = 7>(same)
      all = ReduceMin<keepdims = 1>(as_int, axis) keep = Cast<to = 9>(all) free = Where(keep, zero, bias)
      scores = Add(h, free) e0 = Softmax(scores) e1 = MatMul(e0, eye) }"""
    constants = {"eye": np.eye(8, dtype=np.float32), "zero": np.float32([0]), "axis": np.array([1])}
    model = read_text(tmp_path, text, fill=np.float32([LOWEST]), **constants)
    reduced, _ = in_fp16(model, tmp_path, samples=inputs)
    assert types_of(reduced, "Softmax") == {"FLOAT16"}
    np.testing.assert_allclose(run(reduced, inputs), run(model, inputs), atol=2e-3)


MASK_INPUT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x, float[N,8] mask) => (float[N,8] e0, float[N,8] e1) {
  h = MatMul(x, eye) scores = Add(h, mask) p = Softmax(scores) bad = IsNaN(p) e0 = Where(bad, zero, p)
  e1 = MatMul(e0, eye) }"""


@pytest.mark.parametrize("fill", [*FILLS, -np.inf])
@pytest.mark.parametrize("has_samples", [True, False])
def test_a_mask_that_is_an_input_of_the_model_is_right_for_every_number(tmp_path, inputs, fill, has_samples):
    model = read_text(tmp_path, MASK_INPUT, eye=np.eye(8, dtype=np.float32), zero=np.float32([0]))
    feeds = {"x": inputs["x"], "mask": np.where(inputs["m"], 0, fill).astype(np.float32)}
    reduced, warnings = in_fp16(model, tmp_path, samples=feeds if has_samples else None)
    assert warnings == []
    assert types_of(reduced, "Softmax") == {"FLOAT16"}
    found = run(reduced, feeds)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:3], run(model, feeds)[:3], atol=2e-3)
    if fill == -np.inf:
        assert (found[3:] == 0).all()


def test_other_inputs_are_not_masks(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x, float[N,8] y, float[N,8] z) => (float[N,8] e0, float[N,8] e1) {
      h = MatMul(x, eye) scores = Add(h, y) p = Softmax(scores) q = Add(p, z) e0 = Relu(q) s = Add(p, y) e1 = Tanh(s)
    }"""
    model = read_text(tmp_path, text, eye=np.eye(8, dtype=np.float32))
    assert not MaskNumbers(model).inputs


def test_a_pool_over_masked_values_keeps_the_largest(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x, bool[N,8] m) => (float[N,1] e0, float[N,1] e1) {
      h = MatMul(x, eye) filled = Where(m, h, fill) e0 = ReduceMax<keepdims = 1>(filled, axis) e1 = Tanh(e0) }"""
    constants = {"eye": np.eye(8, dtype=np.float32), "axis": np.array([1]), "fill": np.float32([-1e9])}
    model = read_text(tmp_path, text, **constants)
    x = np.linspace(-MASK_LIMIT, -MASK_LIMIT - 800, 8, dtype=np.float32)[None]
    feeds = {"x": x, "m": np.arange(8)[None] > 3}
    reduced, warnings = in_fp16(model, tmp_path)
    assert warnings == []
    assert types_of(reduced, "ReduceMax") == {"FLOAT16"}
    np.testing.assert_allclose(run(reduced, feeds), run(model, feeds), rtol=1e-3)


def test_a_number_that_an_exit_returns_is_returned_exactly(tmp_path):
    """As for classes that a task does not have."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x) => (float[N,8] e0, float[N,8] e1) {
      h = MatMul(x, eye) e0 = Add(h, classes) r = Tanh(h) e1 = Add(r, classes) }"""
    classes = np.where(np.arange(8) < 6, 0, -1e9).astype(np.float32)
    model = read_text(tmp_path, text, eye=np.eye(8, dtype=np.float32), classes=classes)
    feeds = {"x": np.linspace(-4, 4, 8, dtype=np.float32)[None]}
    reduced, warnings = in_fp16(model, tmp_path, samples=feeds)
    assert warnings == []
    assert types_of(reduced, "Tanh") == {"FLOAT16"}
    np.testing.assert_allclose(run(reduced, feeds), run(model, feeds), rtol=1e-3)
