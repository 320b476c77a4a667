"""The real TensorRT parser names the stage and node that it refuses."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeexit.backends.tensorrt.engines import check_stages
from edgeexit.errors import EngineError
from tests.bundles import make_bundle


def _replace_stage(bundle, index, nodes, weights=()):
    """Replace the graph of a stage with nodes from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        f"stage{index}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), bundle.path / f"stage{index}.onnx")


@pytest.fixture
def bundle(rtx, tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("Det", ["x"], ["y"], name="determinant"),
            r"node 'determinant': .* this Det: unsupported node",
        ),
        (helper.make_node("Wobble", ["x"], ["y"], domain="com.example"), r"node 0: .* this Wobble: .*Plugin not found"),
    ],
)
def test_an_unsupported_operator_is_named_in_one_line(bundle, capfd, node, message):
    _replace_stage(bundle, 1, [node])
    with pytest.raises(EngineError, match=rf"^stage1: {message}") as caught:
        check_stages(bundle.path, bundle.manifest.stages)
    assert "tensorrt_rtx 1." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_int32_bias_behind_a_dequantizer_is_named(bundle):
    weights = [
        numpy_helper.from_array(np.ones(4, dtype=np.int32), "bias"),
        numpy_helper.from_array(np.array(0.5, dtype=np.float32), "scale"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["b"], name="conv1.bias.dequantize"),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    _replace_stage(bundle, 2, nodes, weights)
    with pytest.raises(EngineError, match=r"stage2: node 'conv1.bias.dequantize': .* this DequantizeLinear: .*Int32"):
        check_stages(bundle.path, bundle.manifest.stages)


def test_a_file_that_is_not_an_onnx_graph_is_named(bundle):
    (bundle.path / "stage0.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"stage0: .*cannot read the graph"):
        check_stages(bundle.path, bundle.manifest.stages)


def test_without_tensorrt_the_stages_are_reported_as_not_checked(tiny, monkeypatch):
    def none(first):
        raise EngineError("neither is installed")

    monkeypatch.setattr("edgeexit.backends.tensorrt.engines.parse.installed_libraries", none)
    warning = check_stages(tiny.path, tiny.manifest.stages)
    assert warning == "TensorRT has not checked the stages: neither is installed"
