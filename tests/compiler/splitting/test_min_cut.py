"""Which tensors cross a cut, and how many bytes they have."""

import numpy as np
import onnxruntime as ort
import pytest

from edgeexit.compiler import compile_bundle
from edgeexit.compiler.splitting.split import CarryCandidate, DataflowGraph, GraphNode, split
from tests.compiler.graphs import save_graph
from tests.compiler.staged_run import run_stages

INPUT = GraphNode(("image",), ("x",), label="stem")


def kept_before_the_last(nodes, exits, **sizes):
    flow = DataflowGraph(nodes, inputs=("image",), exits=exits)
    *_, last = split(flow, {name: None if size is None else CarryCandidate(size) for name, size in sizes.items()})
    return set(last.live_before)


def cheap(*reads, makes, **options):
    return GraphNode(reads, (makes,), "freely", **options)


def expensive(*reads, makes, **options):
    return GraphNode(reads, (makes,), **options)


def test_two_kept_tensors_are_joined_again_rather_than_kept_once_more():
    nodes = [
        INPUT,
        expensive("x", makes="a"),
        cheap("x", "a", makes="joined"),
        expensive("joined", makes="e0"),
        expensive("joined", makes="b"),
        cheap("x", "a", "b", makes="wider"),
        expensive("wider", makes="e1"),
    ]
    sizes = {"image": 12, "x": 8, "a": 8, "joined": 16, "b": 8, "wider": 24}
    assert kept_before_the_last(nodes, ["e0", "e1"], **sizes) == {"x", "a"}


def test_an_enlarged_map_is_made_again_from_the_small_one():
    nodes = [INPUT, cheap("x", makes="large"), expensive("large", makes="e0"), expensive("large", makes="e1")]
    assert kept_before_the_last(nodes, ["e0", "e1"], image=100, x=16, large=64) == {"x"}


def test_of_equally_many_bytes_the_one_that_needs_nothing_again_is_kept():
    nodes = [INPUT, cheap("x", makes="relu"), expensive("relu", makes="e0"), expensive("relu", makes="e1")]
    assert kept_before_the_last(nodes, ["e0", "e1"], image=100, x=16, relu=16) == {"relu"}


def test_one_tensor_is_kept_for_two_that_are_made_of_it():
    nodes = [
        INPUT,
        cheap("x", makes="relu"),
        cheap("x", makes="negative"),
        expensive("relu", "negative", makes="e0"),
        expensive("relu", "negative", makes="e1"),
    ]
    assert kept_before_the_last(nodes, ["e0", "e1"], image=100, x=16, relu=16, negative=16) == {"x"}


def test_an_input_counts_with_its_bytes():
    nodes = [cheap("image", makes="x"), expensive("x", makes="e0"), expensive("x", makes="e1")]
    assert kept_before_the_last(nodes, ["e0", "e1"], image=12, x=48) == {"image"}
    assert kept_before_the_last(nodes, ["e0", "e1"], image=48, x=12) == {"x"}


def test_what_is_quantised_crosses_so_even_when_only_a_later_stage_quantises_it():
    nodes = [
        INPUT,
        expensive("x", makes="e0"),
        cheap("x", makes="q", stays_with_inputs=True),
        cheap("q", makes="d"),
        expensive("d", makes="e1"),
    ]
    assert kept_before_the_last(nodes, ["e0", "e1"], image=100, x=16, q=4, d=16) == {"q"}


def test_what_is_kept_anyway_is_quantised_where_it_is_needed():
    nodes = [
        INPUT,
        expensive("x", makes="e0"),
        cheap("x", makes="q", stays_with_inputs=True),
        cheap("q", makes="d"),
        expensive("d", "x", makes="e1"),
    ]
    flow = DataflowGraph(nodes, inputs=("image",), exits=["e0", "e1"])
    first, second = split(
        flow, {"image": CarryCandidate(100), "x": CarryCandidate(16), "q": CarryCandidate(4), "d": CarryCandidate(16)}
    )
    assert second.live_before == ("x",)
    assert first.nodes == (0, 1)


def test_a_random_operator_is_never_run_twice():
    nodes = [
        INPUT,
        GraphNode(("x",), ("noise",), "never", is_random=True),
        cheap("x", "noise", makes="sum"),
        expensive("sum", makes="e0"),
        expensive("sum", makes="e1"),
    ]
    flow = DataflowGraph(nodes, inputs=("image",), exits=["e0", "e1"])
    first, second = split(
        flow, {"image": CarryCandidate(9), "x": CarryCandidate(1), "noise": CarryCandidate(1), "sum": CarryCandidate(9)}
    )
    assert second.live_before == ("x", "noise")
    assert 1 in first.nodes
    assert 1 not in second.nodes


def test_a_shape_is_made_of_any_tensor_that_is_kept_with_the_same_dimensions():
    nodes = [
        INPUT,
        expensive("x", makes="wide"),
        expensive("wide", makes="e0"),
        GraphNode((), ("shape",), "freely", shape_of="wide", symbolic_dims=frozenset({"batch", "length"})),
        expensive("x", "shape", makes="e1"),
    ]
    flow = DataflowGraph(nodes, inputs=("image",), exits=["e0", "e1"])
    words = frozenset({"batch", "length"})
    sizes = {"image": CarryCandidate(100, words), "wide": CarryCandidate(99, words)}
    assert split(flow, sizes | {"x": CarryCandidate(8, words)})[1].live_before == ("x",)
    without = split(flow, sizes | {"x": CarryCandidate(8, frozenset({"batch"}))})[1]
    assert without.live_before == without.inputs + without.carry_in == ("image", "x")


@pytest.fixture
def crossing(tmp_path):
    """Compile a graph of a few lines; return inputs read again and tensors carried, name -> bytes a sample."""

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


def test_a_joined_tensor_crosses_in_one_part(crossing):
    body = """
    h = MatMul(x, a) t = Tanh(h) wide = Concat<axis = 1>(t, t, t) e0 = MatMul(wide, b)
    n = Neg(wide) s = Sigmoid(n) e1 = MatMul(s, b)
    """
    assert crossing(body, a=(8, 3), b=(9, 3)) == ((), {"t": 12})


def test_eight_bits_cross_though_only_the_later_stage_reads_them(crossing):
    body = """
    h = MatMul(x, a) e0 = MatMul(h, b)
    q = QuantizeLinear(h, scale, zero) d = DequantizeLinear(q, scale, zero) r = Tanh(d) e1 = MatMul(r, b)
    """
    scale, zero = np.array(0.05, dtype=np.float32), np.array(0, dtype=np.int8)
    assert crossing(body, a=(8, 8), b=(8, 3), scale=scale, zero=zero) == ((), {"q": 8})


def test_a_length_is_read_off_what_crosses_anyway(crossing):
    body = """
    h = MatMul(x, a) last = ReduceMean<keepdims = 0>(h, axis) e0 = MatMul(last, b)
    sizes = Shape(x) wide = Expand(bias, sizes) y = Add(h, wide) t = Tanh(y)
    mean = ReduceMean<keepdims = 0>(t, axis) e1 = MatMul(mean, b)
    """
    inputs, carried = crossing(body, "float[N,L,8] x", a=(8, 8), b=(8, 3), bias=(1, 1, 8), axis=np.array([1]))
    assert (inputs, carried.keys()) == ((), {"h"})


@pytest.mark.parametrize(("entries", "expected"), [(50, (("ids",), {})), (5000, ((), {"found": 5 * 32}))])
def test_a_table_is_looked_into_again_only_when_it_is_small(crossing, entries, expected):
    body = """
    found = Gather(table, ids) mean = ReduceMean<keepdims = 0>(found, axis) e0 = MatMul(mean, b)
    t = Tanh(found) deep = ReduceMean<keepdims = 0>(t, axis) e1 = MatMul(deep, b)
    """
    assert crossing(body, "int64[N,5] ids", table=(entries, 8), b=(8, 3), axis=np.array([1])) == expected
