"""Torch modules with other floats than float32 are compiled as copies in float32."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.torch_module.float32_copy import float32_copy, foreign_parameter
from edgeexit.errors import CompileError
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress


class Typed(nn.Module):
    """Two exits in the type of the parameters; with `cast`, forward converts its input to that type."""

    def __init__(self, dtype, cast=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.cast = cast
        self.to(dtype)

    def forward(self, x):
        y = self.first(x if self.cast is None else x.to(self.cast)).relu()
        return self.head(y), self.head(self.second(y).relu())


@pytest.mark.parametrize(
    ("dtype", "declared"),
    [(torch.bfloat16, "bfloat16"), (torch.float64, "float64"), (torch.float16, "float16"), (torch.bfloat16, "float32")],
)
def test_a_module_in_other_floats_is_compiled_in_float32_and_stays_as_it_is(tmp_path, dtype, declared):
    module = Typed(dtype).eval()
    progress = RecordedProgress()
    bundle = compile_bundle(
        module, tmp_path / "bundle", CompileOptions(inputs=[f"x:batch,4:{declared}"]), progress=progress
    )
    assert any(f"'first.weight' is {dtype}".replace("torch.", "") in warning for warning in progress.warnings)
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    assert bundle.manifest.inputs[0].dtype == declared.replace("bfloat16", "float32")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(bundle.manifest.inputs[0].dtype)
    found = run_stages(bundle, {"x": x})
    with torch.no_grad():
        expected = module.float()(torch.from_numpy(x).float())
    for name, wanted in zip(bundle.manifest.exits, expected, strict=True):
        np.testing.assert_allclose(found[name], wanted.numpy(), atol=1e-4)


def test_a_float64_module_that_converts_its_input_itself_is_compiled_too(tmp_path):
    module = Typed(torch.float64, cast=torch.float64)
    bundle = compile_bundle(module, tmp_path / "bundle", CompileOptions(inputs=["x:batch,4"]))
    assert {spec.dtype for stage in bundle.manifest.stages for spec in stage.carry_out} == {"float32"}


def test_a_bfloat16_module_that_converts_its_input_itself_is_an_error_that_names_the_tensor(tmp_path):
    module = Typed(torch.bfloat16, cast=torch.bfloat16)
    with pytest.raises(
        CompileError, match=r"^'first.weight' is bfloat16, .*remove the conversions from forward"
    ) as error:
        compile_bundle(module, tmp_path / "bundle", CompileOptions(inputs=["x:batch,4"]))
    assert "\n" not in str(error.value)


def test_float64_buffers_and_integers_are_no_reason_for_a_copy():
    module = Typed(torch.float32)
    module.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
    module.register_buffer("ids", torch.zeros(4, dtype=torch.int64))
    assert foreign_parameter(module) is None
    module.register_buffer("tail", torch.zeros(4, dtype=torch.float16))
    assert foreign_parameter(module) == ("tail", torch.float16)


def test_a_module_that_cannot_be_copied_gives_none():
    class Uncopied(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError

    assert float32_copy(Uncopied(2, 2)) is None


@pytest.mark.parametrize(
    ("dtype", "is_dynamic", "match"),
    [
        (torch.bfloat16, True, "^'[a-z.]*weight' is bfloat16, which ONNX Runtime does not support; export model.float"),
        (torch.float32, False, "^the program has a fixed batch of 2; export the model with a dynamic first dimension"),
    ],
)
def test_a_program_in_bfloat16_or_with_a_fixed_batch_says_how_to_export(tmp_path, dtype, is_dynamic, match):
    shapes = ({0: torch.export.Dim("batch")},) if is_dynamic else None
    program = torch.export.export(Typed(dtype).eval(), (torch.zeros(2, 4, dtype=dtype),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "program.pt2")
    with pytest.raises(CompileError, match=match):
        compile_bundle(tmp_path / "program.pt2", tmp_path / "bundle")
