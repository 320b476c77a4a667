"""Removing outputs from an ONNX model without the package `onnx`; the results are checked with that package."""

import onnx
import pytest

from edgeexit.runtime.profiling.onnx_pruning import without_outputs
from tests.bundles import make_bundle


def test_only_the_nodes_and_outputs_of_the_readout_are_removed(tmp_path):
    path = make_bundle(tmp_path / "bundle").path / "stage2.onnx"
    full, pruned = (
        onnx.load(path),
        onnx.load_from_string(without_outputs(path.read_bytes(), {"e2.readout", "e2.probabilities"})),
    )
    assert [output.name for output in pruned.graph.output] == ["e2"]
    assert [node.op_type for node in pruned.graph.node] == ["Add", "Gemm", "Relu", "MatMul"]
    assert [node.op_type for node in full.graph.node][:4] == [node.op_type for node in pruned.graph.node]
    assert pruned.graph.initializer == full.graph.initializer
    assert pruned.opset_import == full.opset_import


def test_a_node_that_only_a_subgraph_reads_is_kept():
    """The branch of an If reads the result of a node of the outer graph."""
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["outer"], ["flipped"])], "then", [], [_value("flipped")]
    )
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Abs", ["x"], ["outer"]),
            onnx.helper.make_node("Exp", ["x"], ["readout"]),
            onnx.helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch),
        ],
        "g",
        [_value("x"), onnx.helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, [])],
        [_value("y"), _value("readout")],
    )
    pruned = onnx.load_from_string(without_outputs(onnx.helper.make_model(graph).SerializeToString(), {"readout"}))
    onnx.checker.check_model(pruned, full_check=True)
    assert [node.op_type for node in pruned.graph.node] == ["Abs", "If"]


@pytest.mark.parametrize("content", [b"\x3a\xff\x01", b"\x3a", b"\x3b", b"\xff" * 3])
def test_bytes_that_are_not_a_model_raise_an_error(content):
    with pytest.raises(ValueError, match="not an ONNX model"):
        without_outputs(content, {"readout"})


def _value(name):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
