"""The tensors that are carried across a cut have the fewest bytes."""

import numpy as np
import onnxruntime as ort
import pytest

from edgeexit.compiler import compile_bundle
from edgeexit.compiler.splitting.split import CarryCandidate, DataflowGraph, GraphNode, split
from tests.compiler.graphs import save_graph
from tests.compiler.staged_run import run_stages

INPUT = GraphNode(("image",), ("x",), label="stem")


def live_before_the_last_stage(nodes, exits, **sizes):
    """Return the values that are live before the last stage; `sizes` are the bytes of each value."""
    flow = DataflowGraph(nodes, inputs=("image",), exits=exits)
    *_, last = split(flow, {name: None if size is None else CarryCandidate(size) for name, size in sizes.items()})
    return set(last.live_before)


def cheap(*inputs, output, **options):
    return GraphNode(inputs, (output,), "freely", **options)


def expensive(*inputs, output, **options):
    return GraphNode(inputs, (output,), **options)


def test_a_concatenation_is_recomputed_from_carried_parts():
    nodes = [
        INPUT,
        expensive("x", output="a"),
        cheap("x", "a", output="joined"),
        expensive("joined", output="e0"),
        expensive("joined", output="b"),
        cheap("x", "a", "b", output="wider"),
        expensive("wider", output="e1"),
    ]
    sizes = {"image": 12, "x": 8, "a": 8, "joined": 16, "b": 8, "wider": 24}
    assert live_before_the_last_stage(nodes, ["e0", "e1"], **sizes) == {"x", "a"}


def test_an_enlarged_map_is_recomputed_from_the_small_one():
    nodes = [INPUT, cheap("x", output="large"), expensive("large", output="e0"), expensive("large", output="e1")]
    assert live_before_the_last_stage(nodes, ["e0", "e1"], image=100, x=16, large=64) == {"x"}


def test_of_values_of_equal_size_the_one_without_recomputation_is_carried():
    nodes = [INPUT, cheap("x", output="relu"), expensive("relu", output="e0"), expensive("relu", output="e1")]
    assert live_before_the_last_stage(nodes, ["e0", "e1"], image=100, x=16, relu=16) == {"relu"}


def test_one_tensor_is_carried_for_two_that_are_computed_from_it():
    nodes = [
        INPUT,
        cheap("x", output="relu"),
        cheap("x", output="negative"),
        expensive("relu", "negative", output="e0"),
        expensive("relu", "negative", output="e1"),
    ]
    assert live_before_the_last_stage(nodes, ["e0", "e1"], image=100, x=16, relu=16, negative=16) == {"x"}


def test_the_bytes_of_a_model_input_count():
    nodes = [cheap("image", output="x"), expensive("x", output="e0"), expensive("x", output="e1")]
    assert live_before_the_last_stage(nodes, ["e0", "e1"], image=12, x=48) == {"image"}
    assert live_before_the_last_stage(nodes, ["e0", "e1"], image=48, x=12) == {"x"}


def test_int8_is_carried_even_if_only_a_later_stage_reads_it():
    nodes = [
        INPUT,
        expensive("x", output="e0"),
        cheap("x", output="q", stays_with_inputs=True),
        cheap("q", output="d"),
        expensive("d", output="e1"),
    ]
    assert live_before_the_last_stage(nodes, ["e0", "e1"], image=100, x=16, q=4, d=16) == {"q"}


def test_a_value_that_is_carried_anyway_is_quantised_in_the_later_stage():
    nodes = [
        INPUT,
        expensive("x", output="e0"),
        cheap("x", output="q", stays_with_inputs=True),
        cheap("q", output="d"),
        expensive("d", "x", output="e1"),
    ]
    flow = DataflowGraph(nodes, inputs=("image",), exits=["e0", "e1"])
    first, second = split(
        flow, {"image": CarryCandidate(100), "x": CarryCandidate(16), "q": CarryCandidate(4), "d": CarryCandidate(16)}
    )
    assert second.live_before == ("x",)
    assert first.nodes == (0, 1)


def test_a_random_operator_never_runs_twice():
    nodes = [
        INPUT,
        GraphNode(("x",), ("noise",), "never", is_random=True),
        cheap("x", "noise", output="sum"),
        expensive("sum", output="e0"),
        expensive("sum", output="e1"),
    ]
    flow = DataflowGraph(nodes, inputs=("image",), exits=["e0", "e1"])
    first, second = split(
        flow, {"image": CarryCandidate(9), "x": CarryCandidate(1), "noise": CarryCandidate(1), "sum": CarryCandidate(9)}
    )
    assert second.live_before == ("x", "noise")
    assert 1 in first.nodes
    assert 1 not in second.nodes


def test_a_shape_is_read_from_any_live_tensor_with_the_same_dimensions():
    nodes = [
        INPUT,
        expensive("x", output="wide"),
        expensive("wide", output="e0"),
        GraphNode((), ("shape",), "freely", shape_of="wide", symbolic_dims=frozenset({"batch", "length"})),
        expensive("x", "shape", output="e1"),
    ]
    flow = DataflowGraph(nodes, inputs=("image",), exits=["e0", "e1"])
    dims = frozenset({"batch", "length"})
    sizes = {"image": CarryCandidate(100, dims), "wide": CarryCandidate(99, dims)}
    assert split(flow, sizes | {"x": CarryCandidate(8, dims)})[1].live_before == ("x",)
    without = split(flow, sizes | {"x": CarryCandidate(8, frozenset({"batch"}))})[1]
    assert without.live_before == without.inputs + without.carry_in == ("image", "x")


@pytest.fixture
def carries_of(tmp_path):
    """Compile a small graph; return the inputs of the second stage, and carry -> bytes per sample."""

    def compiled(body, given="float[N,8] x", **weights):
        text = f'<ir_version: 9, opset_import: ["": 18]> g ({given}) => (float[N,3] e0, float[N,3] e1) {{ {body} }}'
        path = save_graph(tmp_path / "model.onnx", text, **weights)
        bundle = compile_bundle(path, tmp_path / "bundle")
        inputs = bundle.golden().inputs
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = run_stages(bundle, inputs)
        for name, expected in zip(("e0", "e1"), session.run(["e0", "e1"], inputs), strict=True):
            np.testing.assert_allclose(outputs[name], expected, atol=1e-5)
        first, second = bundle.manifest.stages
        return second.inputs, {tensor.name: tensor.bytes_per_sample for tensor in first.carry_out}

    return compiled


def test_a_concatenation_of_one_tensor_is_carried_as_that_tensor(carries_of):
    body = """
    h = MatMul(x, a) t = Tanh(h) wide = Concat<axis = 1>(t, t, t) e0 = MatMul(wide, b)
    n = Neg(wide) s = Sigmoid(n) e1 = MatMul(s, b)
    """
    assert carries_of(body, a=(8, 3), b=(9, 3)) == ((), {"t": 12})


def test_int8_is_carried_in_a_compiled_bundle_even_if_only_the_later_stage_reads_it(carries_of):
    body = """
    h = MatMul(x, a) e0 = MatMul(h, b)
    q = QuantizeLinear(h, scale, zero) d = DequantizeLinear(q, scale, zero) r = Tanh(d) e1 = MatMul(r, b)
    """
    scale, zero = np.array(0.05, dtype=np.float32), np.array(0, dtype=np.int8)
    assert carries_of(body, a=(8, 8), b=(8, 3), scale=scale, zero=zero) == ((), {"q": 8})


def test_a_length_is_read_from_a_tensor_that_is_carried_anyway(carries_of):
    body = """
    h = MatMul(x, a) last = ReduceMean<keepdims = 0>(h, axis) e0 = MatMul(last, b)
    sizes = Shape(x) wide = Expand(bias, sizes) y = Add(h, wide) t = Tanh(y)
    mean = ReduceMean<keepdims = 0>(t, axis) e1 = MatMul(mean, b)
    """
    inputs, carried = carries_of(body, "float[N,L,8] x", a=(8, 8), b=(8, 3), bias=(1, 1, 8), axis=np.array([1]))
    assert (inputs, carried.keys()) == ((), {"h"})


@pytest.mark.parametrize(("entries", "expected"), [(50, (("ids",), {})), (5000, ((), {"found": 5 * 32}))])
def test_a_gather_is_recomputed_only_from_a_small_table(carries_of, entries, expected):
    body = """
    found = Gather(table, ids) mean = ReduceMean<keepdims = 0>(found, axis) e0 = MatMul(mean, b)
    t = Tanh(found) deep = ReduceMean<keepdims = 0>(t, axis) e1 = MatMul(deep, b)
    """
    assert carries_of(body, "int64[N,5] ids", table=(entries, 8), b=(8, 3), axis=np.array([1])) == expected
