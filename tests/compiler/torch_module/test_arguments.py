"""The inputs are passed as forward takes them."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.torch_module.arguments import input_names, order_inputs, parameters_of
from edgeexit.compiler.torch_module.exit_module import run_module, wrap_module
from edgeexit.errors import CompileError
from tests.recorded_progress import RecordedProgress

X, SCALE, SHIFT = (np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32) for seed in range(3))


class Affine(nn.Module):
    def forward(self, x, scale=None, shift=None):
        y = x if scale is None else x * scale
        y = y if shift is None else y + shift
        return y, -y


class Args(Affine):
    def forward(self, *args):
        return super().forward(*args)


class ArgsAndKwargs(Affine):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class Kwargs(Affine):
    def forward(self, **kwargs):
        return super().forward(**kwargs)


class PositionalOnly(Affine):
    def forward(self, x, scale=None, shift=None, /):
        return super().forward(x, scale, shift)


class KeywordOnly(Affine):
    def forward(self, x, *rest, shift):
        return super().forward(x, *rest, shift=shift)


def specs(**arrays):
    return tuple(TensorSpec(name=name, dtype="float32", shape=("batch", 3)) for name in arrays)


def run(module, **arrays):
    """Return the first exit, and the warnings."""
    progress = RecordedProgress()
    wrapped = wrap_module(module, order_inputs(module, specs(**arrays)), arrays, progress=progress)
    return run_module(wrapped, arrays)["exit0"], progress.warnings


@pytest.mark.parametrize(
    ("module", "arrays", "expected"),
    [
        (Affine(), {"shift": SHIFT, "x": X}, X + SHIFT),
        (Affine(), {"scale": SCALE, "x": X, "shift": SHIFT}, X * SCALE + SHIFT),
        (PositionalOnly(), {"x": X, "shift": SHIFT}, X + SHIFT),
        (PositionalOnly(), {"x": X}, X),
        (KeywordOnly(), {"x": X, "shift": SHIFT, "more": SCALE}, X * SCALE + SHIFT),
        (Kwargs(), {"shift": SHIFT, "x": X}, X + SHIFT),
        (ArgsAndKwargs(), {"shift": SHIFT, "x": X}, X + SHIFT),
        (ArgsAndKwargs(), {"image": X}, X),
        (Args(), {"image": X}, X),
    ],
)
def test_each_input_reaches_its_parameter(module, arrays, expected):
    found, warnings = run(module, **arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not warnings


@pytest.mark.parametrize("module", [Args(), ArgsAndKwargs()])
def test_several_inputs_of_args_are_passed_in_the_given_order_with_a_warning(module):
    found, warnings = run(module, image=X, factor=SCALE)
    np.testing.assert_allclose(found, X * SCALE, rtol=1e-6)
    assert warnings == ["forward takes *args: the inputs 'image', 'factor' are passed in this order"]


def test_the_inputs_of_a_script_module_are_those_of_its_schema():
    script = torch.jit.trace(PositionalOnly(), (torch.from_numpy(X),))
    assert parameters_of(script).required == ("x",)
    np.testing.assert_array_equal(run(script, x=X)[0], X)


def test_the_module_of_an_exported_program_is_called_as_it_was_exported():
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        Affine(),
        (torch.from_numpy(X),),
        {"shift": torch.from_numpy(SHIFT)},
        dynamic_shapes={"x": batch, "shift": batch},
    )
    np.testing.assert_allclose(run(program.module(), x=X, shift=SHIFT)[0], X + SHIFT, rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "names", "match"),
    [
        (Affine(), ["image"], "forward needs 'x', but the input is named 'image'; forward takes 'x', 'scale', 'shift'"),
        (Affine(), ["x", "bias"], "forward has no parameter 'bias'; it takes 'x'"),
        (KeywordOnly(), ["x"], "forward needs 'shift', which is not among the inputs"),
        (Args(), [], "forward needs at least one input"),
    ],
)
def test_inputs_that_forward_does_not_take_are_rejected(module, names, match):
    with pytest.raises(CompileError, match=match):
        order_inputs(module, specs(**dict.fromkeys(names)))


def test_arrays_of_an_example_that_are_no_parameters_are_ignored_unless_one_is_missing():
    assert input_names(Affine(), {"id": X, "x": X}) == ("x",)
    assert input_names(Affine(), {"image": X}) == ("image",)
    assert input_names(Kwargs(), {"anything": X}) == ("anything",)
