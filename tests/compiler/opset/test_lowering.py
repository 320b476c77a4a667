"""Lowering to older opsets: equal results, and one-line errors for operators that cannot be lowered."""

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes import common as passes

from edgeexit.compiler.graph import infer_shapes
from edgeexit.compiler.opset.lowering import lower_opset
from edgeexit.errors import CompileError

ONE = "float[N,6] x"
TWO = "float[N,6] x, float[6] s"
SAME = "float[N,6] y"


def graph(body, opset, inputs, outputs):
    """Return a small graph with lifted constants and inferred shapes, and the original model."""
    text = f'<ir_version: 10, opset_import: ["": {opset}, "local": 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    body, _, functions = text.partition("FUNCTIONS")
    file = onnx.parser.parse_model(body + (" }" if functions else "") + functions.removesuffix(" }"))
    model = ir.from_proto(file)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_shapes(model)
    return model, file


def run(file, feeds):
    return ort.InferenceSession(file.SerializeToString()).run(None, feeds)


@pytest.mark.parametrize(
    ("body", "opset", "inputs", "outputs"),
    [
        ("y = Add(x, s)", 28, TWO, SAME),
        ("y = Gelu(x)", 20, ONE, SAME),
        ('y = Gelu<approximate = "tanh">(x)', 20, ONE, SAME),
        ("y = HardSwish(x)", 22, ONE, SAME),
        ("y = Mish(x)", 22, ONE, SAME),
        ("y = Swish(x)", 24, ONE, SAME),
        ("y = LayerNormalization<axis = 1>(x, s)", 18, TWO, SAME),
        ("y = LayerNormalization<epsilon = 0.1>(x, s, s)", 20, TWO, SAME),
        ("y = RMSNormalization(x, s)", 24, TWO, SAME),
        ("y = GroupNormalization<num_groups = 2>(x, s, s)", 21, "float[N,6,4] x, float[6] s", "float[N,6,4] y"),
        ("a = Constant<value_ints = [1]>() y = ReduceMean(x, a)", 20, ONE, "float[N,1] y"),
        ("y = ReduceMax<noop_with_empty_axes = 1>(x)", 20, ONE, SAME),
        ("y = ReduceL2<keepdims = 0>(x)", 20, ONE, "float y"),
        (
            "a = Constant<value_ints = [-1]>() p = Constant<value_ints = [1, 2]>() y = Pad(x, p, , a)",
            20,
            ONE,
            "float[N,9] y",
        ),
        ("y, z = Split<axis = 1, num_outputs = 2>(x)", 20, ONE, "float[N,3] y, float[N,3] z"),
        (
            (
                "a = Shape<start = -1>(x) b = Shape<end = 1>(x) c = Concat<axis = 0>(a, b) "
                "y = Reshape<allowzero = 1>(x, c)"
            ),
            20,
            ONE,
            "float[M,N] y",
        ),
        (
            (
                "c = Constant<value = float {0.1}>() q = QuantizeLinear<output_dtype = 3>(x, c) "
                "y = DequantizeLinear(q, c)"
            ),
            23,
            ONE,
            SAME,
        ),
        ("y = CastLike(x, s)", 22, TWO, SAME),
        ("y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x)", 23, "float[N,4,6] x", "float[N,4,6] y"),
        (
            "y = LSTM<hidden_size = 2>(x, w, r)",
            22,
            "float[N,3,6] x, float[1,8,6] w, float[1,8,2] r",
            "float[N,1,3,2] y",
        ),
        (
            'y = local.f(x) FUNCTIONS <domain: "local", opset_import: ["": 22]> f (a) => (b) { b = Gelu(a) }',
            22,
            ONE,
            SAME,
        ),
        (
            (
                "c = Constant<value = bool {1}>() y = If(c) <then_branch = t () => (float[N,6] u) { "
                "k = Constant<value_ints = [1]>() v = ReduceMean(x, k) u = Add(v, x) }, "
                "else_branch = e () => (float[N,6] w) { w = Gelu(x) }>"
            ),
            20,
            ONE,
            SAME,
        ),
    ],
)
def test_the_results_are_the_same_in_opset_13(body, opset, inputs, outputs):
    model, file = graph(body, opset, inputs, outputs)
    lower_opset(model, 13)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered)
    assert [entry.version for entry in lowered.opset_import if entry.domain == ""] == [13]
    rng = np.random.default_rng(0)
    feeds = {
        value.name: rng.standard_normal([size.dim_value or 4 for size in value.type.tensor_type.shape.dim]).astype("f4")
        for value in file.graph.input
    }
    for expected, found in zip(run(file, feeds), run(lowered, feeds), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "opset", "target", "match"),
    [
        (
            "y = Trilu(x)",
            18,
            13,
            r"'Trilu' \(which produces 'y'\) cannot be expressed in opset 13 of the target: .* in opset 14",
        ),
        ("y = ReduceMean(x, k)", 20, 13, "'ReduceMean' .*: its axes are not constant"),
        (
            "q = Cast<to = 9>(x) r = ReduceMax(q) y = Cast<to = 1>(r)",
            20,
            18,
            r"does not support tensor\(bool\) for 'q'",
        ),
        ("y, z = Split<axis = 0, num_outputs = 2>(x)", 20, 17, "'Split' .* splits a dimension of N into 2 parts"),
        (
            "c = Constant<value = float {1}>() q = QuantizeLinear<block_size = 2>(x, c) y = DequantizeLinear(q, c)",
            21,
            20,
            "'QuantizeLinear' .*: 'block_size' = 2 was added in opset 21",
        ),
        ("y = Nonsense(x)", 22, 13, r"operator 'Nonsense' \(which produces 'y'\) is not in ONNX opset 22"),
    ],
)
def test_an_operator_without_an_older_form_is_named(body, opset, target, match):
    model, _ = graph(body, opset, "float[N,6] x, int64[1] k", SAME)
    with pytest.raises(CompileError, match=match) as raised:
        lower_opset(model, target)
    assert "\n" not in str(raised.value)


def test_a_model_with_an_older_opset_is_not_changed():
    model, _ = graph("y = Gelu(x)", 20, ONE, SAME)
    before = ir.to_proto(model).SerializeToString()
    lower_opset(model, 21)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize(
    "body", ["y = LayerNormalization<axis = 1>(x, s)", "y = RMSNormalization(x, s)"], ids=["layer", "rms"]
)
def test_norms_in_float16_square_in_float32(body):
    """In real float16, as ONNX's reference evaluator computes, the square of 1000 is infinite."""
    model, file = graph(body, 24, "float16[N,6] x, float16[6] s", "float16[N,6] y")
    lower_opset(model, 13)
    feeds = {"x": np.array([[1000, -900, 800, 30, 5, -1200]], np.float16), "s": np.ones(6, np.float16)}
    (expected,) = onnx.reference.ReferenceEvaluator(file).run(None, {k: v.astype(np.float32) for k, v in feeds.items()})
    (found,) = onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=5e-3)
