"""Where the batch is in a value: a dimension of its own, or folded into one with frames, windows or heads."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.splitting.batch_axis import find_layout
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph
from tests.compiler.staged_run import run_stages


def folded(samples, outer, inner, axis):
    """Fold samples [B, outer, inner, 4, 5] into a value with `outer * B * inner` rows along `axis`."""
    rows = np.moveaxis(samples, 0, 1).reshape(outer * len(samples) * inner, 4, 5)
    return np.moveaxis(rows, 0, axis)


@given(outer=st.integers(1, 6), inner=st.integers(1, 6), axis=st.integers(0, 2), seed=st.integers(0, 99))
def test_the_order_of_the_folded_rows_is_found_from_two_runs(outer, inner, axis, seed):
    samples = np.random.default_rng(seed).standard_normal((3, outer, inner, 4, 5)).astype(np.float32)
    first, second = (folded(samples[begin:], outer, inner, axis) for begin in (1, 0))
    second = second + np.float32(1e-6)  # another batch size may change the last bits
    assert find_layout(first, second, axis) == (outer, inner)


@pytest.mark.parametrize(
    "rows_of",
    [
        pytest.param(lambda batch: np.ones((batch * 4, 3), np.float32), id="equal rows"),
        pytest.param(lambda batch: np.arange(batch * 4)[:, None], id="indices into the batch"),
        pytest.param(np.arange, id="indices of samples"),
        pytest.param(
            lambda batch: np.random.default_rng(batch).random((batch * 4, 3)), id="rows that all samples change"
        ),
    ],
)
def test_rows_that_are_equal_or_belong_to_no_sample_have_no_order(rows_of):
    assert find_layout(rows_of(2), rows_of(3), 0) is None


def test_the_order_of_rows_with_many_elements_is_found():
    samples = np.random.default_rng(0).standard_normal((3, 4 * 50_000)).astype(np.float32).reshape(3, 4, 50_000)
    first, second = samples[1:].reshape(-1, 50_000), samples.reshape(-1, 50_000)
    assert find_layout(first, second, 0) == (1, 4)


def test_infinities_and_nan_do_not_hide_the_order_of_the_rows():
    samples = np.random.default_rng(0).standard_normal((3, 4, 1, 4, 5)).astype(np.float32)
    samples[np.abs(samples) > 1] = -np.inf
    samples[np.abs(samples) < 0.1] = np.nan
    assert find_layout(folded(samples[1:], 4, 1, 0), folded(samples, 4, 1, 0), 0) == (4, 1)


GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,T,6] x) => (float[N,3] e0, float[N,3] e1) {
  one = Constant<value_ints = [1]>()
  FOLD
  h0 = MatMul(flat, w0)
  y0 = Tanh(h0)
  UNFOLD0
  m0 = ReduceMean<keepdims = 0>(u0, one)
  e0 = MatMul(m0, head)
  h1 = MatMul(y0, w1)
  y1 = Tanh(h1)
  UNFOLD1
  m1 = ReduceMean<keepdims = 0>(u1, one)
  e1 = MatMul(m1, head)
}
"""
TIME_FIRST = (
    "t = Transpose<perm = [1, 0, 2]>(x) shape = Shape(t) rows = Constant<value_ints = {}>() flat = Reshape(t, rows)"
)
TIME_FIRST_BACK = "v{0} = Reshape(y{0}, shape) u{0} = Transpose<perm = [1, 0, 2]>(v{0})"
FRAMES = "shape = Shape(x) rows = Constant<value_ints = {}>() flat = Reshape(x, rows)"
FRAMES_BACK = "u{0} = Reshape(y{0}, shape)"
CASES = {
    "batch, then frames": (FRAMES.format([-1, 6]), FRAMES_BACK, ["frames", 6]),
    "frames, then batch": (TIME_FIRST.format([-1, 6]), TIME_FIRST_BACK, ["frames", 6]),
    "batch and frames in the second dimension": (FRAMES.format([1, -1, 6]), FRAMES_BACK, ["frames", 1, 6]),
    "frames, batch, halves": (TIME_FIRST.format([-1, 3]), TIME_FIRST_BACK, ["frames", 2, 3]),
    "batch, frames, halves": (FRAMES.format([-1, 3]), FRAMES_BACK, [("frames", 2), 3]),
}


def save(path, case, frames):
    fold, unfold, _ = CASES[case]
    text = GRAPH.replace("FOLD", fold, 1).replace("UNFOLD0", unfold.format(0)).replace("UNFOLD1", unfold.format(1))
    width = 3 if "halves" in case else 6
    text = text.replace("[N,T,6]", f"[N,{frames},6]")
    return save_graph(path, text, w0=(width, width), w1=(width, width), head=(6, 3))


@pytest.mark.parametrize("frames", [4, "T"])
@pytest.mark.parametrize("case", CASES)
def test_frames_that_are_folded_into_the_batch_are_carried_beside_it(tmp_path, case, frames):
    path = save(tmp_path / "video.onnx", case, frames)
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions())
    (carry,) = bundle.manifest.stages[0].carry_out
    expected = [2 * frames if size == ("frames", 2) and frames == 4 else size for size in CASES[case][2]]
    expected = [
        frames if size == "frames" else f"{carry.name}.1" if isinstance(size, tuple) else size for size in expected
    ]
    assert list(carry.shape) == ["batch", *expected]
    clips = np.random.default_rng(1).standard_normal((5, 4 if frames == 4 else 7, 6)).astype(np.float32)
    staged = run_stages(bundle, {"x": clips})
    full_model = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert staged[carry.name].shape[0] == len(clips)
    for name, logits in zip(("e0", "e1"), full_model.run(["e0", "e1"], {"x": clips}), strict=True):
        np.testing.assert_allclose(staged[name], logits, rtol=1e-5, atol=1e-6)


def test_equal_samples_do_not_hide_the_order_of_the_frames(tmp_path):
    path = save(tmp_path / "video.onnx", "frames, then batch", 4)
    example = {"x": np.ones((3, 4, 6), np.float32)}
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions(example=example))
    assert bundle.manifest.stages[0].carry_out[0].shape == ("batch", 4, 6)


INDICES = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,4,6] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  last = ReduceMax<keepdims = 0>(h, two)
  values, best = TopK<axis = 1>(last, one)
  zero = Constant<value_int = 0>()
  shape = Shape<start = 0, end = 1>(x)
  count = Squeeze(shape)
  step = Constant<value_int = 1>()
  samples = Range(zero, count, step)
  four = Constant<value_int = 4>()
  begins = Mul(samples, four)
  column = Unsqueeze(begins, one)
  rows = Add(best, column)
  flat = Reshape(h, wide)
  chosen = Gather(flat, rows)
  c0 = Squeeze(chosen, one)
  e0 = MatMul(c0, head)
  g1 = MatMul(h, w)
  flat1 = Reshape(g1, wide)
  chosen1 = Gather(flat1, rows)
  c1 = Squeeze(chosen1, one)
  e1 = MatMul(c1, head)
}
"""


def test_indices_into_the_rows_of_the_batch_are_recomputed_and_not_carried(tmp_path):
    weights = {"one": np.array([1]), "two": np.array([2]), "wide": np.array([-1, 6])}
    path = save_graph(tmp_path / "top.onnx", INDICES, w=(6, 6), head=(6, 3), **weights)
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions())
    assert [carry.name for carry in bundle.manifest.stages[0].carry_out] == ["h", "best"]


MIXED = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,6] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  t = Transpose<perm = [1, 0]>(h)
  gram = MatMul(t, h)
  none = Constant<value_float = 0.0>()
  nothing = Mul(gram, none)
  a = MatMul(h, nothing)
  b = Add(a, h)
  e0 = MatMul(b, head)
  r = Relu(h)
  c = MatMul(r, nothing)
  d = Add(c, r)
  e1 = MatMul(d, head)
}
"""


def test_a_value_without_rows_for_each_sample_cannot_be_carried(tmp_path):
    path = save_graph(tmp_path / "mixed.onnx", MIXED, w=(6, 6), head=(6, 3))
    match = r"^stage 1 needs 'gram', which .* of stage 0 produces; it cannot be carried, because it has no rows"
    with pytest.raises(CompileError, match=match):
        compile_bundle(path, tmp_path / "bundle", CompileOptions())


def test_a_number_of_frames_that_the_model_limits_is_not_taken_for_static(tmp_path):
    """With the 8 frames of random samples, the model folds 4 of them; with 3, it folds 3."""
    fold = "four = Constant<value_ints = [4]>() zero = Constant<value_ints = [0]>() few = Slice(x, zero, four, one) "
    fold += FRAMES.format([-1, 6]).replace("(x", "(few")
    text = GRAPH.replace("FOLD", fold, 1)
    text = text.replace("UNFOLD0", FRAMES_BACK.format(0)).replace("UNFOLD1", FRAMES_BACK.format(1))
    path = save_graph(tmp_path / "limited.onnx", text, w0=(6, 6), w1=(6, 6), head=(6, 3))
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions())
    clips = np.random.default_rng(1).standard_normal((4, 3, 6)).astype(np.float32)
    (logits,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["e1"], {"x": clips})
    staged = run_stages(bundle, {"x": clips})
    np.testing.assert_allclose(staged["e1"], logits, rtol=1e-5, atol=1e-6)
    assert staged["y0.batch_first"].shape == (4, 3, 6)
