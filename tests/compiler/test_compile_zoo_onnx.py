"""ONNX files of every opset, with subgraphs, functions, sequences and quantised values."""

import numpy as np
import onnx
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.full_model import assert_file_composed, bytes_carried, carried
from tests.compiler.graphs import (
    BRANCH_IN_FUNCTION,
    FUNCTIONS,
    INITIALIZER_INPUT,
    LOOP,
    MANY_OPERATORS,
    QUANTISED,
    SAME_NAMES,
    SCAN,
    SEQUENCES,
    SHAPES,
    save_graph,
)

SQUARE, HEAD = {"w": (8, 8), "head": (8, 3)}, {"head": (8, 3)}
DEEP = SQUARE | {"deep": (8, 8)}


def rows(seed=0, *shape):
    return np.random.default_rng(seed).standard_normal((5, *(shape or (8,)))).astype(np.float32)


@pytest.fixture
def compiled(tmp_path):
    """Compile a graph in ONNX's text format; return the bundle and the file."""

    def make(text, *, target=None, **weights):
        path = save_graph(tmp_path / "model.onnx", text, **weights)
        return compile_bundle(path, tmp_path / "bundle", CompileOptions(target=target)), path

    return make


def functions(bundle):
    files = [bundle.path / stage.file for stage in bundle.manifest.stages]
    return [sorted(function.name for function in onnx.load(file).functions) for file in files]


def test_a_loop_may_capture_a_value_of_an_earlier_stage_and_a_weight(compiled):
    bundle, path = compiled(LOOP, **DEEP)
    assert carried(bundle) == [["h"], []]
    assert bundle.manifest.stages[1].inputs == ()
    assert_file_composed(bundle, path, {"x": rows()})


def test_a_scan_may_have_any_number_of_steps(compiled):
    bundle, path = compiled(SCAN, **DEEP)
    assert set(carried(bundle)[0]) <= {"h", "p"}
    assert "h" in carried(bundle)[0]
    for steps in (1, 4):
        assert_file_composed(bundle, path, {"x": rows(steps, steps, 8)})


def test_functions_that_only_branches_call_are_in_their_stage(compiled):
    bundle, path = compiled(FUNCTIONS, **DEEP)
    assert functions(bundle) == [[], ["Inner", "Outer"]]
    assert carried(bundle) == [["h"], []]
    assert "flag" in bundle.manifest.stages[1].inputs
    assert bundle.manifest.stages[0].inputs == ("x",)
    assert_file_composed(bundle, path, {"x": rows(), "flag": np.array([True, False, True, True, False])})


def test_a_function_may_have_branches(compiled):
    bundle, path = compiled(BRANCH_IN_FUNCTION, **DEEP)
    assert functions(bundle) == [[], ["Choose"]]
    assert carried(bundle) == [["h"], []]
    assert_file_composed(bundle, path, {"x": rows()})


def test_branches_may_have_initializers_of_the_same_name(compiled):
    bundle, path = compiled(SAME_NAMES, **SQUARE)
    for width in (8, 4):
        assert_file_composed(bundle, path, {"x": rows(), "gate": rows(1)[:, :width]})


def test_a_subgraph_initializer_may_have_the_name_of_an_outer_one(tmp_path):
    path = save_graph(tmp_path / "model.onnx", SAME_NAMES.replace("factor", "scale"), **SQUARE)
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([7]), "scale"))
    model.graph.node[1].input[0] = "scaled"
    model.graph.node.insert(1, onnx.helper.make_node("Mul", ["h", "scale"], ["scaled"]))
    onnx.save(model, path)
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert_file_composed(bundle, path, {"x": rows(), "gate": rows(1)})


def test_a_sequence_is_recomputed_in_the_later_stage_that_reads_it(compiled):
    bundle, path = compiled(SEQUENCES, **SQUARE)
    assert set(carried(bundle)[0]) <= {"h", "r"}
    assert_file_composed(bundle, path, {"x": rows()})


def test_an_initializer_that_is_listed_as_an_input_is_not_a_model_input(compiled):
    bundle, path = compiled(INITIALIZER_INPUT, **HEAD)
    assert [spec.name for spec in bundle.manifest.inputs] == ["x"]
    assert_file_composed(bundle, path, {"x": rows()})


@pytest.mark.parametrize(
    ("opset", "ir_version"), [(13, 7), (15, 8), (17, 8), (18, 8), (20, 9), (21, 10), (23, 11), (26, 13), (28, 14)]
)
def test_files_of_every_opset_and_ir_version_are_compiled(compiled, opset, ir_version):
    text = MANY_OPERATORS.replace("OPSET", str(opset)).replace("ir_version: 10", f"ir_version: {ir_version}")
    bundle, path = compiled(text, **SQUARE)
    assert bundle.manifest.opset == min(opset, 20)
    assert carried(bundle) == [["h"], []]
    assert_file_composed(bundle, path, {"x": rows()})


def test_the_alias_of_the_standard_domain_is_accepted(compiled):
    bundle, path = compiled(MANY_OPERATORS.replace('"": OPSET', '"ai.onnx": 18'), **SQUARE)
    assert bundle.manifest.opset == 18
    assert_file_composed(bundle, path, {"x": rows()})


def test_a_shape_is_recomputed_with_operators_of_the_old_opset(compiled):
    text = (
        SHAPES.replace('"": 18', '"": 13').replace("(wide, axis)", "(wide)").replace("keepdims", "axes = [0], keepdims")
    )
    weights = {"sizes": np.array([64, 1, 8]), "one": np.array([1]), "two": np.array([2])}
    bundle, path = compiled(text, w=(8, 8), head0=(8, 3), head1=(8, 3), **weights)
    assert (bundle.manifest.opset, carried(bundle)) == (13, [["pooled"], []])
    assert_file_composed(bundle, path, {"x": rows()})


@pytest.mark.parametrize("opset", [13, 19, 21, 23])
def test_the_carry_is_int8_in_every_opset(compiled, opset):
    scale = {"scale": np.array(0.05, dtype=np.float32), "zero": np.array(0, dtype=np.int8)}
    bundle, path = compiled(QUANTISED.replace('"": 18', f'"": {opset}'), w=(8, 8), head0=(8, 3), head1=(8, 3), **scale)
    assert (carried(bundle), bytes_carried(bundle)) == ([["q"], []], [0, 8])
    assert_file_composed(bundle, path, {"x": rows()})


def test_unknown_dimensions_have_no_names_from_shape_inference(compiled):
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x, float[N,T] y) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) e0 = MatMul(h, head)
      zero = Constant<value = float {0}>() length = Shape<start = 1>(y) zeros = ConstantOfShape(length)
      equal = Equal(zeros, zero) where = NonZero(equal)
      some = Transpose<perm = [1, 0]>(where) number = Cast<to = 1>(some)
      count = ReduceSum<keepdims = 0>(number) both = Add(h, count) r = Tanh(both) e1 = MatMul(r, head) }"""
    bundle, _ = compiled(text, **SQUARE)
    assert not [
        size for stage in bundle.manifest.stages for t in stage.carry_out for size in t.shape if "unk" in str(size)
    ]
