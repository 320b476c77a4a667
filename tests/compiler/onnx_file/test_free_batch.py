"""ONNX files with a fixed batch: it is made dynamic, compared with the file, or the node that needs it is named."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress

HEAD = '<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[{n},3] e0, float[{n},3] e1) {{ {body} }}'
TAIL = " e1 = MatMul(h, b)"
FIRST = "flat = Flatten(x) e0 = MatMul(flat, a) "

SEQUENCE = (
    """p = ReduceMean<axes = [1], keepdims = 0>(x) e0 = MatMul(p, a)
t = Transpose<perm = [1, 0, 2]>(x) all, last = GRU<hidden_size = 4>(t, gru_w, gru_r, , , state)
zero = Constant<value_ints = [0]>() h = Squeeze(last, zero)"""
    + TAIL
)
TOKEN = (
    """p = ReduceMean<axes = [1], keepdims = 0>(x) e0 = MatMul(p, a)
j = Concat<axis = 1>(token, x) s = Add(j, positions) w = Reshape(s, heads) v = Transpose<perm = [0, 2, 1, 3]>(w)
k = Transpose<perm = [0, 2, 3, 1]>(w) score = MatMul(v, k) soft = Softmax<axis = -1>(score) mix = MatMul(soft, v)
back = Transpose<perm = [0, 2, 1, 3]>(mix) m = Reshape(back, whole) h = ReduceMean<axes = [1], keepdims = 0>(m)"""
    + TAIL
)
SEQUENCE_FIRST = (
    """p = ReduceMean<axes = [1], keepdims = 0>(x) e0 = MatMul(p, a) t = Transpose<perm = [1, 0, 2]>(x)
rows = Reshape(t, rows_of) y = MatMul(rows, square) heads = Reshape(y, folded) v = Transpose<perm = [1, 0, 2]>(heads)
k = Transpose<perm = [1, 2, 0]>(heads) score = MatMul(v, k) mix = MatMul(score, v) u = Transpose<perm = [1, 0, 2]>(mix)
z = Reshape(u, unfolded) h = ReduceMean<axes = [0], keepdims = 0>(z)"""
    + TAIL
)
RESIZED = (
    """p = ReduceMean<axes = [2, 3], keepdims = 0>(x) e0 = MatMul(p, a)
r = Resize<mode = "linear">(x, , , sizes) c = Slice(r, starts, ends, axes) s = Shape(c)
two = Constant<value_ints = [2]>() q = Gather(s, two) target = Concat<axis = 0>(batch, four, q, minus)
f = Reshape(c, target) h = ReduceMean<axes = [2, 3], keepdims = 0>(f)"""
    + TAIL
)


def ints(*numbers):
    return np.array(numbers, dtype=np.int64)


def repeated(n, *shape):
    """Return a constant whose rows along axis 1 of `shape` (a token, a state) are equal for all samples."""
    return np.repeat(np.random.default_rng(3).standard_normal(shape).astype(np.float32), n, axis=0)


def weights_of(name, n):
    """Return the weights of a case; those that contain the batch fix it at `n`."""
    common = {"a": (4, 3), "b": (4, 3)}
    return {
        "sequence": {
            **common, "gru_w": (1, 12, 4), "gru_r": (1, 12, 4), "state": np.swapaxes(repeated(n, 1, 1, 4), 0, 1),
        },
        "token": {
            **common, "token": repeated(n, 1, 1, 4), "positions": repeated(n, 1, 6, 4), "heads": ints(n, 6, 2, 2),
            "whole": ints(n, 6, 4),
        },
        "sequence first": {
            **common, "square": (4, 4), "rows_of": ints(5 * n, 4), "folded": ints(5, 2 * n, 2),
            "unfolded": ints(5, n, 4),
        },
        "resized": {
            **common, "sizes": ints(n, 4, 6, 6), "starts": ints(0, 1), "ends": ints(n, 5), "axes": ints(0, 2),
            "batch": ints(n), "four": ints(4), "minus": ints(-1),
        },
    }[name]  # fmt: skip


BODIES = {"sequence": SEQUENCE, "token": TOKEN, "sequence first": SEQUENCE_FIRST, "resized": RESIZED}


def save(path, name, n):
    shape = f"{n},4,3,3" if name == "resized" else f"{n},5,4"
    return save_graph(path, HEAD.format(inputs=f"float[{shape}] x", n=n, body=BODIES[name]), **weights_of(name, n))


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", BODIES)
def test_a_fixed_batch_is_made_dynamic_and_the_stages_equal_the_file(tmp_path, name, n):
    path = save(tmp_path / "fixed.onnx", name, n)
    progress = RecordedProgress()
    bundle = compile_bundle(path, tmp_path / "bundle", progress=progress)
    assert any(f"the fixed batch of {n} to a dynamic one" in warning for warning in progress.warnings)
    assert bundle.manifest.inputs[0].shape[0] == "batch"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((n, *session.get_inputs()[0].shape[1:])).astype(np.float32)
    together = run_stages(bundle, {"x": x})
    for exit_name, expected in zip(("e0", "e1"), session.run(["e0", "e1"], {"x": x}), strict=True):
        np.testing.assert_allclose(together[exit_name], expected, atol=1e-4)
        alone = [run_stages(bundle, {"x": x[row : row + 1]})[exit_name] for row in range(n)]
        np.testing.assert_allclose(np.concatenate(alone), expected, atol=1e-4)


def test_inputs_of_which_only_one_is_fixed_share_the_batch(tmp_path):
    text = HEAD.format(
        inputs="int64[1,7] ids, float[N] time", n="N",
        body="v = Gather(table, ids) p = ReduceMean<axes = [1], keepdims = 0>(v) e0 = MatMul(p, a) "
        "one = Constant<value_ints = [1]>() t = Unsqueeze(time, one) h = Mul(p, t)" + TAIL,
    )  # fmt: skip
    path = save_graph(tmp_path / "two.onnx", text, table=(2, 4), a=(4, 3), b=(4, 3))
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert [spec.shape for spec in bundle.manifest.inputs] == [("batch", 7), ("batch",)]


def test_a_scalar_for_each_sample_is_aligned_with_the_batch(tmp_path):
    text = HEAD.format(inputs="float[1,4] x, float[1] time", n=1, body="e0 = MatMul(x, a) h = Mul(time, x)" + TAIL)
    bundle = compile_bundle(save_graph(tmp_path / "scalar.onnx", text, a=(4, 3), b=(4, 3)), tmp_path / "bundle")
    inputs = {"x": np.ones((2, 4), dtype=np.float32), "time": np.array([1, 3], dtype=np.float32)}
    found = run_stages(bundle, inputs)["e1"]
    np.testing.assert_allclose(found[1], 3 * found[0], rtol=1e-5)


def test_the_data_of_a_fixed_batch_may_be_external_and_samples_need_not_fill_it(tmp_path):
    path = save(tmp_path / "fixed.onnx", "token", 4)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="apart", size_threshold=90)
    x = np.random.default_rng(2).standard_normal((6, 5, 4)).astype(np.float32)
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions(example={"x": x}, precision="fp16"))
    assert bundle.manifest.proof.samples == 6


@pytest.mark.parametrize(
    ("body", "n", "match"),
    [
        (
            "s = Squeeze(x) p = Unsqueeze(s, zero) e0 = MatMul(p, a) r = Relu(p) h = Add(r, p)",
            1,
            "exit 'e0' from 2x3 to 1x2x3 on a batch of 2, because the Squeeze of 's' mixes",
        ),
        ("e0 = MatMul(x, a) g = Gather<axis = 0>(x, zero) h = Add(x, g)", 4, "because the Gather of 'g' mixes"),
        ("e0 = MatMul(x, a) h = Add(x, per_row)", 4, "dynamic one changes exit 'e1' by up to"),
        (
            "e0 = MatMul(x, a) m = ReduceMean<axes = [0]>(x) h = Sub(x, m)",
            1,
            "dynamic one changes exit 'e1'.*ReduceMean of 'm'",
        ),
    ],
)
def test_a_batch_that_cannot_be_freed_is_an_error_that_says_how_to_export(tmp_path, body, n, match):
    text = HEAD.format(inputs=f"float[{n},4] x", n=n, body=body + TAIL)
    path = save_graph(tmp_path / "fixed.onnx", text, a=(4, 3), b=(4, 3), zero=ints(0), per_row=(4, 4))
    with pytest.raises(CompileError, match=match) as error:
        compile_bundle(path, tmp_path / "bundle")
    assert "export the model with a dynamic first dimension" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_exit_with_another_number_of_rows_than_the_fixed_batch_is_refused(tmp_path):
    body = "rows = Constant<value_ints = [1, 8]>() r = Reshape(x, rows) e0 = MatMul(r, a) h = Add(x, x)"
    text = HEAD.format(inputs="float[2,4] x", n=2, body=body + TAIL).replace("float[2,3] e0", "float[1,3] e0")
    path = save_graph(tmp_path / "folded.onnx", text, a=(8, 3), b=(4, 3))
    with pytest.raises(CompileError, match=r"exit 'e0' is 1x3 for .* batch of 2; the first dimension of an exit must"):
        compile_bundle(path, tmp_path / "bundle")
