"""The next steps that `edgeexit compile` prints."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def model(tmp_path):
    """An ONNX file with two exits [B, 3] on vectors [B, 4]."""
    weights = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "trunk"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "head"], ["early"]),
            helper.make_node("Tanh", ["hidden"], ["deep"]),
            helper.make_node("MatMul", ["deep", "trunk"], ["deeper"]),
            helper.make_node("MatMul", ["deeper", "head"], ["late"]),
        ],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("early", "late")],
        [numpy_helper.from_array(weights[0], "trunk"), numpy_helper.from_array(weights[1][:, :3].copy(), "head")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("raspberry-pi-5", ["next: edgeexit fit {out} --data HELDOUT.npz"]),
        (
            "jetson-orin-nano",
            [
                "next: edgeexit fit {out} --data HELDOUT.npz",
                "next: copy {out} to the device, then run there: edgeexit engines build bundle",
            ],
        ),
        (
            "nvidia-desktop",
            [
                "next: edgeexit fit {out} --data HELDOUT.npz",
                "next: edgeexit engines build {out}; add --for if the GPU is in another machine",
            ],
        ),
    ],
)
def test_the_next_steps_depend_on_where_plans_are_built(edgeexit, model, tmp_path, target, steps):
    out = tmp_path / "bundle"
    outcome = edgeexit("compile", model, "--target", target, "--out", out)
    assert outcome.code == 0, outcome.err
    printed = [line for line in outcome.out.splitlines() if line.startswith("next:")]
    assert printed == [step.format(out=out) for step in steps]
