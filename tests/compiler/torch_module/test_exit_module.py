"""ExitModule is what the tracers see: inputs by position, the chosen exits as a flat tuple."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.torch_module.evaluation import in_eval_mode, is_training
from edgeexit.compiler.torch_module.exit_module import ExitModule, remove_prefix, wrap_module
from edgeexit.compiler.torch_module.unwrap import class_name_of, unwrap_module

SAMPLES = {"in.put": np.ones((4, 3), dtype=np.float32)}
SPECS = (TensorSpec(name="in.put", dtype="float32", shape=("batch", 3)),)


class Nested(nn.Module):
    """Returns two exits in a list, and what no tracer takes. The input has a name that is no name in Python."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, *args):
        shallow = self.first(args[0])
        deep = self.second(shallow)
        return {"exits": [shallow, deep], "chosen": deep.argmax(1), "config": self, "mode": "test"}


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_sees_only_the_chosen_exits(strict):
    module = wrap_module(Nested(), SPECS, SAMPLES, ["exits.1", "exits.0"])
    program = torch.export.export(module, (torch.ones(2, 3),), strict=strict)
    deep, shallow = program.module()(torch.ones(2, 3))
    expected = Nested()(torch.ones(2, 3))["exits"]
    torch.testing.assert_close([shallow, deep], expected)


def test_torchscript_traces_an_exit_module_around_compiled_modules():
    model = Nested()
    model.first = torch.compile(model.first)
    model.second.compile()
    module = wrap_module(unwrap_module(torch.compile(model)), SPECS, SAMPLES, ["exits.*"])
    with in_eval_mode(module):
        traced = torch.jit.trace(module, (torch.ones(2, 3),))
    torch.testing.assert_close(list(traced(torch.ones(5, 3))), Nested()(torch.ones(5, 3))["exits"])
    assert model.second._compiled_call_impl is not None


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        torch.optim.swa_utils.AveragedModel,
        lambda model: torch.compile(nn.DataParallel(torch.compile(model))),
    ],
)
def test_the_wrappers_of_training_are_removed(wrap):
    module = unwrap_module(wrap(Nested()))
    assert type(module) is Nested
    assert unwrap_module(nn.Sequential(nn.DataParallel(Nested())))[0].module


def test_a_submodule_that_data_parallel_wraps_runs_on_one_device():
    model = Nested()
    model.first = nn.DataParallel(model.first)
    model.first.device_ids = [0, 1]  # as on a machine with two GPUs
    module = wrap_module(model, SPECS, SAMPLES, ["exits.*"])
    with in_eval_mode(module):
        shallow, _ = module(torch.ones(2, 3))
    torch.testing.assert_close(shallow, Nested()(torch.ones(2, 3))["exits"][0])
    assert model.first.device_ids == [0, 1]


def test_a_script_module_has_the_name_of_its_class_and_can_be_frozen():
    script = torch.jit.script(nn.Linear(2, 2).eval())
    assert class_name_of(script) == "Linear"
    frozen = torch.jit.freeze(script)
    assert not is_training(frozen)
    with in_eval_mode(frozen):
        assert frozen(torch.ones(1, 2)).shape == (1, 2)


def test_the_names_in_an_exported_graph_are_those_of_the_user():
    weights = [ir.val(name, dtype=ir.DataType.FLOAT, shape=[1]) for name in ("model.model.w", "/model/conv/Constant")]
    node = ir.node("Add", weights, name="/model/conv/Add")
    node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", "model", "model.model", "model.model.conv", "add"])
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=weights, opset_imports={"": 18})
    remove_prefix(ir.Model(graph, ir_version=10))
    assert [value.name for value in node.inputs] == ["model.w", "/conv/Constant"]
    assert node.name == "/conv/Add"
    assert node.metadata_props["pkg.torch.onnx.name_scopes"] == repr(["", "", "model", "model.conv", "add"])


def test_the_exits_may_be_named_before_the_module_ran():
    module = ExitModule(Nested(), SPECS, ["exits.1"])
    (deep,) = module(torch.ones(2, 3))
    torch.testing.assert_close(deep, Nested()(torch.ones(2, 3))["exits"][1])
