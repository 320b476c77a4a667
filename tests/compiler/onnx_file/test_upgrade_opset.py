"""ONNX files of opset 7 to 12, as old exporters write them, return the same after the upgrade to opset 13."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeexit.compiler import compile_bundle
from edgeexit.compiler.onnx_file.upgrade_opset import upgrade_opset
from edgeexit.errors import CompileError
from tests.recorded_progress import RecordedProgress

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
SCALES = np.array([1, 1, 2, 2], dtype=np.float32)
STATISTICS = {name: np.abs(RNG.standard_normal(4)).astype(np.float32) for name in ("scale", "bias", "mean", "var")}


def node(op, inputs, outputs="y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def old_model(opset, nodes, weights=None, *, weights_are_inputs=False):
    """Return a model with the input x [N, 4, 6, 6] and the output y."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])]
    if weights_are_inputs:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 3 if weights_are_inputs else 6
    return model


def run(model):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": X})[0]


def branches():
    """Return the branches of an If: in one Unsqueeze and Squeeze, in the other Softmax over several axes."""
    out = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    yes = helper.make_graph(
        [node("Unsqueeze", "x", "u", axes=[0]), node("Squeeze", "u", "t", axes=[0])], "a", [], [out]
    )
    no = helper.make_graph([node("Softmax", "x", "t", axis=1)], "b", [], [out])
    return {"then_branch": yes, "else_branch": no}


OLD = {
    "Upsample-7": (7, [node("Upsample", "x", mode="nearest", scales=[1.0, 1.0, 1.5, 2.0])]),
    "Upsample-7 linear": (8, [node("Upsample", "x", mode="linear", scales=[1.0, 1.0, 2.0, 2.0])]),
    "Upsample-9": (9, [node("Upsample", "x s", mode="linear")], {"s": SCALES}),
    "Resize-10": (10, [node("Resize", "x s", mode="linear")], {"s": SCALES}),
    "Resize-10 that shrinks": (10, [node("Resize", "x s", mode="nearest")], {"s": SCALES ** -1}),
    "Softmax over the axes from 1": (9, [node("Softmax", "x", axis=1)]),
    "LogSoftmax": (11, [node("LogSoftmax", "x")]),
    "Unsqueeze and Squeeze": (11, [node("Unsqueeze", "x", "u", axes=[1]), node("Squeeze", "u", axes=[1])]),
    "ReduceSum": (12, [node("ReduceSum", "x", axes=[2, 3], keepdims=0)]),
    "Dropout with a mask": (9, [node("Dropout", "x", "d mask", ratio=0.5), node("Relu", "d")]),
    "BatchNormalization": (7, [node("BatchNormalization", "x scale bias mean var", spatial=1)], STATISTICS),
    "Pad": (9, [node("Pad", "x", mode="reflect", pads=[0, 0, 1, 1, 0, 0, 2, 2])]),
    "Clip without max": (9, [node("Clip", "x", min=-0.5)]),
    "Slice-1": (9, [node("Slice", "x", starts=[1, 0], ends=[-1, 5], axes=[2, 3])]),
    "TopK-1": (9, [node("TopK", "x", "y i", k=3, axis=3)]),
    "TopK-10": (10, [node("TopK", "x k", "y i", axis=3)], {"k": np.array([3])}),
    "Split": (11, [node("Split", "x", "a b", axis=1, split=[1, 3]), node("Concat", "b a", axis=1)]),
    "branches": (11, [node("If", "go", **branches())], {"go": np.array(False)}),  # noqa: FBT003 - an array
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_an_old_operator_returns_the_same_after_the_upgrade(name):
    opset, nodes, *weights = OLD[name]
    model = old_model(opset, nodes, *weights, weights_are_inputs=opset < 9)
    expected = run(model)
    upgraded, found = upgrade_opset(ir.from_proto(model))
    assert (found, upgraded.opset_imports[""]) == (opset, 13)
    proto = ir.to_proto(upgraded)
    proto.ir_version = 8
    np.testing.assert_allclose(run(proto), expected, atol=1e-5)


def test_a_large_weight_is_not_copied_and_keeps_its_place():
    weight = np.arange(36 * 24, dtype=np.float32).reshape(36, 24)
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "m"), node("ReduceSum", "m", axes=[1])]
    model = ir.from_proto(old_model(8, nodes, {"shape": np.array([-1, 36]), "w": weight}, weights_are_inputs=True))
    tensor = model.graph.initializers["w"].const_value
    upgraded, _ = upgrade_opset(model)
    assert upgraded.graph.initializers["w"].const_value is tensor
    assert model.graph.initializers["w"].const_value is tensor
    assert upgraded.graph.inputs[0].name == "x"


def test_a_model_of_opset_13_or_newer_is_not_changed():
    model = ir.from_proto(old_model(13, [node("Relu", "x")]))
    assert upgrade_opset(model) == (model, None)


def test_an_operator_without_conversion_is_named_in_one_line():
    weights = {name: np.ones((4, 6, 6), dtype=np.float32) for name in STATISTICS}
    model = old_model(7, [node("BatchNormalization", "x scale bias mean var", spatial=0)], weights)
    with pytest.raises(
        CompileError, match=r"opset 7 is too old and cannot be converted to 13: .*spatial.*; export"
    ) as e:
        upgrade_opset(ir.from_proto(model))
    assert "\n" not in str(e.value)


def exits(opset, *nodes, weights=None):
    """Return a model with the exits e0 and e1: `nodes` compute `h` [N, 4, ?, ?] from x for the second."""
    pooled = [node("ReduceMean", "x", "p", axes=[2, 3], keepdims=0), node("MatMul", "p w", "e0")]
    deeper = [node("ReduceMean", "h", "q", axes=[2, 3], keepdims=0), node("MatMul", "q w", "e1")]
    head = {"w": RNG.standard_normal((4, 3)).astype(np.float32)}
    model = old_model(opset, [*pooled, *nodes, *deeper], head | (weights or {}))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("e0", "e1"))
    return model


def test_an_old_file_compiles_and_a_warning_names_its_opset(tmp_path):
    onnx.save(exits(9, node("Upsample", "x s", "h", mode="linear"), weights={"s": SCALES}), tmp_path / "old.onnx")
    progress = RecordedProgress()
    bundle = compile_bundle(tmp_path / "old.onnx", tmp_path / "bundle", progress=progress)
    assert bundle.manifest.exits == ("e0", "e1")
    assert any("opset 9 to 13" in warning for warning in progress.warnings)


def test_an_old_file_whose_conversion_changes_an_exit_is_rejected(tmp_path):
    onnx.save(exits(9, node("Hardmax", "x", "h", axis=1)), tmp_path / "old.onnx")
    with pytest.raises(
        CompileError, match=r"converting opset 9 to 13 changes exit 'e1' by up to .*; export the model with o"
    ):
        compile_bundle(tmp_path / "old.onnx", tmp_path / "bundle")
