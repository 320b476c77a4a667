"""Options that cannot be right fail before the model is loaded, or at least before it is run and exported."""

import numpy as np
import onnx
import pytest
import torch

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import BundleError, CompileError, DataError, EngineError, TargetError

X = {"x": np.zeros((4, 8), np.float32)}
NAN = {"x": np.full((4, 8), np.nan, np.float32)}
JETSON = {"target": "jetson-orin-nano"}


@pytest.fixture
def unloadable(tmp_path):
    """A model whose factory must not be called."""
    (tmp_path / "slow.py").write_text("def make():\n    raise RuntimeError('the factory was called')\n")
    return f"{tmp_path}/slow.py:make"


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (TargetError, "target 'toaster' is unknown", {"target": "toaster"}),
        (TargetError, "target '' is unknown", {"target": ""}),
        (CompileError, "precision 'int4' is not one of fp32", {"precision": "int4"}),
        (CompileError, "task 'detect' is not one of classification", {"task": "detect"}),
        (CompileError, "the max loss is 5; it is a fraction of the samples", {"max_loss": 5}),
        (CompileError, "int8 needs real samples", {"precision": "int8"}),
        (CompileError, "--keep-fp32 'heads.*': all nodes are in fp32", {"keep_fp32": ["heads.*"]}),
        (CompileError, "companion 'a b': a name has", {"companions": {"a b": ["y0", "y1"]}}),
        (CompileError, "the option exits is 'a,b'; give a list", {"exits": "a,b"}),
        (CompileError, "the option inputs is 'x:batch,8'; give a list", {"inputs": "x:batch,8"}),
        (CompileError, "'x' must be NAME:SHAPE", {"inputs": ["x"]}),
        (DataError, "class name 1 is empty", {"class_names": ["cat", ""]}),
        (CompileError, "--dimension 'n': only TensorRT plans have size ranges", {"dimensions": {"n": (1, 2, 3)}}),
        (EngineError, "the range of 'n' is 3,2,1", {"dimensions": {"n": (3, 2, 1)}, **JETSON}),
        (DataError, "samples: 'x' has shape 4x8, but the model takes batch.9", {"inputs": ["x:batch,9"], "example": X}),
        (
            DataError,
            "samples: 'x' is float32, but the model takes int64",
            {"inputs": ["x:batch,8:int64"], "example": X},
        ),
        (DataError, "samples: the array 'y' is missing; the arrays are 'x'", {"inputs": ["y:batch,8"], "example": X}),
        (DataError, "samples: 'x' has NaN in sample 0", {"inputs": ["x:batch,8"], "example": NAN}),
        (
            DataError,
            "calibration data: 'x' has NaN in sample 0",
            {"inputs": ["x:batch,8"], "calibration": NAN, "precision": "int8"},
        ),
        (
            DataError,
            "samples: 'labels' is float64",
            {"inputs": ["x:batch,8"], "example": {**X, "labels": np.full(4, 0.5)}, "precision": "fp16"},
        ),
        (
            DataError,
            r"calibration data: 'labels' has shape \(3,\)",
            {"inputs": ["x:batch,8"], "calibration": {**X, "labels": np.zeros(3, int)}, "precision": "fp16"},
        ),
    ],
)
def test_a_wrong_option_fails_before_the_factory_is_called(unloadable, tmp_path, error, match, options):
    with pytest.raises(error, match=match):
        compile_bundle(unloadable, tmp_path / "bundle", CompileOptions(**options))


def test_an_existing_folder_fails_before_the_factory_is_called(unloadable, tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(BundleError, match="exists already"):
        compile_bundle(unloadable, tmp_path / "bundle", CompileOptions(inputs=["x:batch,8"]))


class Unrunnable(torch.nn.Module):
    """A model that must not run."""

    def forward(self, x):
        raise RuntimeError("forward was called")


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (DataError, "samples: 'x' has NaN in sample 0", {"example": NAN}),
        (CompileError, "--mask 'm' is no input of the model", {"inputs": ["x:batch,8"], "masks": ["m"]}),
        (CompileError, "--mask 'x' is int64", {"inputs": ["x:batch,8:int64"], "masks": ["x"]}),
        (
            CompileError,
            "--dimension 'm': no input has it; .* are: 'n'",
            {"inputs": ["x:batch,n"], "dimensions": {"m": (1, 2, 3)}, **JETSON},
        ),
        (CompileError, "forward needs 'x', but the input is named 'y'", {"inputs": ["y:batch,8"]}),
        (CompileError, "a torch model does not describe its inputs", {}),
    ],
)
def test_an_option_that_does_not_match_a_module_fails_before_the_module_runs(tmp_path, error, match, options):
    with pytest.raises(error, match=match):
        compile_bundle(Unrunnable(), tmp_path / "bundle", CompileOptions(**options))


def test_samples_that_are_not_finite_fail_before_an_onnx_file_is_checked(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }'  # one exit
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(DataError, match="'x' has NaN in sample 0"):
        compile_bundle(tmp_path / "model.onnx", tmp_path / "bundle", CompileOptions(example=NAN))
