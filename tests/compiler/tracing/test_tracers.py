"""A module that torch.export does not trace is traced by another exporter, if the trace is right for other data."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.torch_module.exit_module import ExitModule, remove_prefix, run_module
from edgeexit.compiler.tracing.torch_export import name_inputs
from edgeexit.compiler.tracing.tracers import trace
from edgeexit.errors import CompileError
from tests.compiler.networks import Recurrent
from tests.recorded_progress import RecordedProgress

SAMPLES = {"x": np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)}


class Net(nn.Module):
    """Two exits; `function` is called with the module and the features, and returns the features for the second."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))
        self.register_buffer("enabled", torch.tensor([1]))

    def forward(self, x):
        first = self.heads[0](x)
        return first, self.heads[1](self.function(self, x, first))


def convert(module, exporter="auto", samples=SAMPLES, shape=(4,), name="x"):
    """Trace a module with two exits; return the graph, the wrapped module and the warnings."""
    wrapped = ExitModule(
        module.eval(), (TensorSpec(name=name, dtype="float32", shape=("n", *shape)),), ("exit0", "exit1")
    )
    progress = RecordedProgress()
    model = trace(wrapped, wrapped.inputs, samples, opset=18, exporter=exporter, progress=progress)
    remove_prefix(model)
    name_inputs(model.graph, wrapped.inputs)
    return model, wrapped, progress.warnings


def assert_equal(model, module, folder, samples):
    ir.save(model, folder / "model.onnx")
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for one, other in zip(session.run(None, samples), run_module(module, samples).values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def certainty(module, x, logits):
    module.history = logits.softmax(1).amax(1).numpy().tolist()
    return x * 2


def branch_on_buffer(module, x, _):
    return x * 2 if module.enabled[0] == 1 else x


def not_compiled(_, x, __):
    if torch.compiler.is_compiling():
        raise RuntimeError("this model cannot be compiled")
    return x * 2


@pytest.mark.parametrize("function", [certainty, branch_on_buffer, not_compiled])
def test_torchscript_traces_what_torch_export_does_not(tmp_path, function):
    model, module, (warning,) = convert(Net(function))
    assert_equal(model, module, tmp_path, {"x": SAMPLES["x"][:5]})
    assert "at test_tracers.py:" in warning
    assert "TorchScript traced it, and its exits are those of the module for batches of 1, 2, 3, 6" in warning
    assert "heads.1.weight" in model.graph.initializers
    assert not any(str(node.name).startswith("/model") for node in model.graph)


def test_strict_mode_traces_half_of_the_batch(tmp_path):
    def halves(_, x, __):
        count = int(x.size(0) / 2)
        swapped = torch.cat((x[count:], x[:count]))
        return torch.cat((swapped[x.size(0) - count :], swapped[: x.size(0) - count]))

    model, module, (warning,) = convert(Net(halves))
    assert "forward fixes the size of a dynamic dimension at test_tracers.py:" in warning
    assert "torch.export in strict mode traced it" in warning
    for count in (1, 2, 5):
        assert_equal(model, module, tmp_path, {"x": SAMPLES["x"][:count]})
    with pytest.raises(CompileError, match=r"fixes the size of a dynamic dimension at test_tracers\.py:"):
        convert(Net(halves), "export")


@pytest.mark.parametrize("size", [2, 3, (3, None), (1, 1)])
def test_torchscript_pools_behind_a_computed_length(tmp_path, size):
    def halves(_, x, __):
        images, count = x.reshape(-1, 4, 1, 1).expand(-1, 4, 6, 4) * torch.arange(4), int(x.size(0) / 2)
        pooled = nn.functional.adaptive_avg_pool2d(torch.cat((images[:count], images[count:])), size)
        return pooled.flatten(2)[..., -1]

    model, module, _ = convert(Net(halves), "torchscript")
    for count in (1, 2, 5):
        assert_equal(model, module, tmp_path, {"x": SAMPLES["x"][:count]})


def branch(_, x, __):
    return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize("exporter", ["auto", "export", "strict", "torchscript"])
def test_no_exporter_takes_a_branch_on_data(exporter):
    with pytest.raises(CompileError, match=r"forward branches on its data at test_tracers\.py:[0-9]+"):
        convert(Net(branch), exporter)


def caught_branch(_, x, __):
    try:
        return x if x.max() > 1 else x / 2
    except RuntimeError:
        return x * 3


def caught_statistic(module, x, _):
    try:
        module.history = x.max().item()
        module.is_high = bool(torch.ones(1) > 0)
    except RuntimeError:
        module.history = None
    return x * 2


@pytest.mark.parametrize("exporter", ["auto", "export"])
def test_a_branch_on_data_whose_error_forward_catches_is_an_error(exporter):
    with pytest.raises(CompileError, match=r"forward branches on its data at test_tracers.py:\d+"):
        convert(Net(caught_branch), exporter)


def test_a_statistic_whose_error_forward_catches_is_traced(tmp_path):
    model, module, warnings = convert(Net(caught_statistic))
    assert warnings == []
    assert_equal(model, module, tmp_path, SAMPLES)


def test_a_number_from_the_data_is_an_error():
    with pytest.raises(CompileError, match=r"converts its data to a number at test_tracers\.py:"):
        convert(Net(lambda _, x, __: torch.from_numpy(np.sort(x.numpy()))), "torchscript")


def test_another_path_for_large_batches_is_an_error_with_its_line():
    with pytest.raises(
        CompileError, match=r"size of the batch at test_tracers\.py:[0-9]+: .* for more than 100 samples"
    ):
        convert(Net(lambda _, x, __: x * 2 if x.shape[0] > 100 else x))


def test_a_buffer_that_changes_is_an_error_for_every_exporter():
    def stateful(module, x, _):
        module.enabled += 1
        return x * module.enabled

    for exporter in ("auto", "torchscript"):
        with pytest.raises(CompileError, match="changes the buffer 'enabled'"):
            convert(Net(stateful), exporter)


def test_if_all_exporters_fail_the_first_error_is_raised():
    with pytest.raises(
        CompileError, match=r"at test_tracers.py:[0-9]+ \(aten._linalg_svd.default\): .*No ONNX function"
    ):
        convert(Net(lambda _, x, __: torch.linalg.svdvals(x.view(-1, 2, 2)).repeat(1, 2)))


class Scripted(nn.Module):
    """Returns a list; the second exit depends on a branch on the sum of the batch."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x):
        exits = []
        for head in self.heads:
            exits.append(head(x))
            if bool(x.sum() > 0):
                x = x * 2
        return exits


def test_a_script_module_keeps_its_branches(tmp_path):
    for module in (torch.jit.script(Scripted().eval()), torch.jit.freeze(torch.jit.script(Scripted().eval()))):
        model, wrapped, warnings = convert(module)
        assert not warnings
        assert "If" in {node.op_type for node in model.graph}
        for samples in (np.abs(SAMPLES["x"]), -np.abs(SAMPLES["x"])):
            assert_equal(model, wrapped, tmp_path, {"x": samples})


def test_recurrent_layers_with_a_symbolic_length_are_traced_by_torchscript(tmp_path):
    samples = {"steps": np.random.default_rng(6).standard_normal((4, 8, 4)).astype(np.float32)}
    model, module, (warning,) = convert(Recurrent(), samples=samples, shape=("length", 4), name="steps")
    assert "TorchScript traced it" in warning
    assert "LSTM" in {node.op_type for node in model.graph}
    for length in (1, 3, 8):
        assert_equal(model, module, tmp_path, {"steps": samples["steps"][:3, :length]})


def test_a_trace_with_a_fixed_length_is_an_error():
    def fixed(_, x, __):
        return x[:, : int(np.ceil(x.shape[1] / 2))].mean(1)

    class Sequence(Net):
        def forward(self, x):
            return self.heads[0](x.mean(1)), self.heads[1](self.function(self, x, None))

    samples = {"x": np.zeros((4, 8, 4), dtype=np.float32) + np.arange(8, dtype=np.float32)[:, None]}
    with pytest.raises(CompileError, match=r"differs from the torch model at exit 'exit1' for an input of 3x[0-9]x4"):
        convert(Sequence(fixed), "torchscript", samples, ("length", 4))


class Packed(nn.Module):
    """Packs the sequences of the samples, which are as long as they have positive values of the first feature."""

    def __init__(self, *, pads):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(6, 3)])
        self.pads = pads

    def forward(self, x):
        lengths = (x[:, :, 0] > 0).sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, (state, _) = self.lstm(packed)
        if self.pads:
            state = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0].sum(1, keepdim=True).transpose(0, 1)
        return self.heads[0](x.mean(1)), self.heads[1](state[-1])


def test_packed_sequences_are_traced_by_torchscript_or_named_in_the_error(tmp_path, capfd):
    samples = {"x": np.random.default_rng(7).standard_normal((6, 5, 4)).astype(np.float32) + 0.5}
    model, module, (warning,) = convert(Packed(pads=True), samples=samples, shape=(5, 4))
    assert "a packed sequence at test_tracers.py:" in warning
    for count in (1, 4):
        assert_equal(model, module, tmp_path, {"x": samples["x"][:count]})
    with pytest.raises(CompileError, match=r"recurrent layer on a packed sequence at test_tracers\.py:[0-9]+; pad its"):
        convert(Packed(pads=False), samples=samples, shape=(5, 4))
    assert not capfd.readouterr().out
