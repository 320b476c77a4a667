"""Models and inputs that cannot be compiled: each gives an error of one line, and nothing is written."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeexit.bundle import Bundle
from edgeexit.compiler import CompileOptions, compile_bundle, load_class_names
from edgeexit.errors import CompileError, DataError, TargetError
from tests.compiler.graphs import REUSED_EXIT, save_graph, two_heads
from tests.compiler.networks import Dense

ONE = "e0 = MatMul(x, a) "
TWO = ONE + "r = Relu(x) e1 = MatMul(r, b) "


def assert_rejected(error, out, source, match, **options):
    """Assert that compiling fails with one line that matches, and that no files remain."""
    with pytest.raises(error, match=match) as raised:
        compile_bundle(source, out, CompileOptions(**options))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert not out.exists()
    assert not list(out.parent.glob(".*partial*"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "bundle"


@pytest.fixture
def graph(tmp_path):
    """Write a small ONNX file and return its path."""

    def write(body, **options):
        return two_heads(tmp_path / "model.onnx", body, **options)

    return write


class Returning(nn.Module):
    """A model whose forward returns the result of `function` on the output of a linear layer and on the input."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.function = function

    def forward(self, x, scale=1.0):
        return self.function(self.layer(x) * scale, x)


SOURCE = """
import torch
number = 3
def make(): return torch.nn.Linear(2, 2)
def needs(size): return torch.nn.Linear(size, 2)
def nothing(): return None
"""


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("{folder}/mine.py:absent", "'mine' has no 'absent'"),
        ("{folder}/mine.py:number", "'number' is int, not a function"),
        ("{folder}/mine.py:nothing", r"nothing\(\) returned NoneType, not a torch.nn.Module"),
        ("{folder}/mine.py:needs", r"needs\(\) failed: TypeError: .*'size'"),
        ("{folder}/other.py:make", "'.*other.py' does not exist"),
        ("{folder}/broken.py:make", "broken.py' cannot be imported: ZeroDivisionError: division by zero"),
        ("no_such_package.models:make", "'no_such_package.models' cannot be imported: ModuleNotFoundError"),
        ("resnet", "must be package.module:factory, path/file.py:factory, a .pt2, a .pt or an .onnx file"),
        ("{folder}/absent.onnx", "absent.onnx' does not exist"),
        ("{folder}/absent.pt2", "absent.pt2' does not exist"),
        ("{folder}/folder.onnx", "folder.onnx' is a folder; give a file"),
        ("{folder}/empty.onnx", "empty.onnx' is empty"),
        ("{folder}/pointer.onnx", "pointer.onnx' is a Git LFS pointer; run `git lfs pull`"),
        ("{folder}/text.onnx", "text.onnx' is not a readable ONNX file"),
        ("{folder}/text.pt2", "text.pt2' is not a readable .pt2 file"),
    ],
)
def test_a_source_that_cannot_be_loaded_is_rejected(tmp_path, out, source, match):
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for name in ("text.onnx", "text.pt2"):
        (tmp_path / name).write_text("this is no model")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    (tmp_path / "folder.onnx").mkdir()
    assert_rejected(CompileError, out, source.format(folder=tmp_path), match, inputs=["x:batch,2"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ((), "give --input NAME:SHAPE.* or --example"),
        (("image:batch,4",), "forward needs 'input', but the input is named 'image'"),
        (("input:batch,5",), r"forward fails at .*\.py:[0-9]+ on 'input' 2x5 float32: RuntimeError: mat1 and mat2"),
        (("input:batch,4:int64",), r"forward fails at .* on 'input' 2x4 int64: .*the first dimension is the batch"),
        (("input",), r"'input' must be NAME:SHAPE\[:DTYPE\]"),
        (("input:batch,0",), "dimension '0' is neither a number above 0 nor a name"),
        (("input:batch,,4",), "dimension '' is neither"),
        (("input:batch,4:float33",), "dtype 'float33' is not one of"),
        (("input:batch,4:FLOAT32",), "dtype 'FLOAT32' is not one of"),
        (("input:batch,4:torch.float32",), "dtype 'torch.float32' is not one of"),
        (("input:batch,4", "input:batch,4"), "input 'input' is given twice"),
    ],
)
def test_inputs_that_do_not_match_the_module_are_rejected(out, given, match):
    assert_rejected(CompileError, out, Dense(), match, inputs=given)


def test_a_missing_input_is_an_error_that_names_it(out):
    module = Returning(lambda y, _: (y, y.relu()))
    assert_rejected(
        CompileError, out, module, "forward needs 'x'.*forward takes 'x', 'scale'", inputs=["scale:batch,1"]
    )


def test_an_example_that_does_not_match_the_model_is_rejected(out):
    wrong = {"input": np.zeros((4, 4), dtype=np.float64)}
    assert_rejected(
        DataError, out, Dense(), "float64, but the model takes float32", example=wrong, inputs=["input:b,4"]
    )
    assert_rejected(CompileError, out, Dense(), "forward needs 'input'", example={"image": np.zeros((4, 4))})


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda y, _: y, "the model has 1 exit;"),
        (lambda y, _: (y, None), "the model has 1 exit;"),
        (lambda y, _: (y, (y.relu(), y[:, :2])), "'0' 2x3 float32, '1.0' 2x3 float32, '1.1' 2x2 .*--exits"),
        (
            lambda y, x: (y, y.relu() if x.sum() > 0 else y),
            "^forward branches on its data at test_compile_errors.py:[0-9]+; ",
        ),
        (
            lambda y, _: (y, y * float(str(y.max().item()))),
            "^forward converts its data to a number at test_compile_errors.py:[0-9]+; ",
        ),
        (lambda y, _: (y, y.reshape(2, 3).relu()), "forward fixes the size of a dynamic dimension"),
        (lambda y, _: (y, y.relu() if y.shape[0] > 1 else y), "differs from .* for a batch of 1; .* size of the batch"),
        (lambda y, _: (y, y.bfloat16().relu().float()), "' is bfloat16: remove torch.autocast and casts"),
        (lambda y, _: (y, y + torch.randn(3)), "differs from the torch model at exit 'exit1'"),
        (lambda y, _: (y, y - y.mean(0)), "^ReduceMean 'node_mean' mixes the samples of a batch"),
    ],
)
def test_a_forward_that_cannot_be_compiled_is_rejected(out, function, match):
    assert_rejected(CompileError, out, Returning(function), match, inputs=["x:batch,8"])


def test_a_forward_whose_result_depends_on_earlier_calls_is_rejected(out):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.layer(x), self.layer(x.relu()) + self.calls

    assert_rejected(CompileError, out, Counting(), "forward changes the buffer 'calls'", inputs=["x:batch,8"])


@pytest.mark.parametrize(
    ("body", "outputs", "match"),
    [
        (ONE, "float[N,3] e0", "the model has 1 exit, 'e0'; an early-exit model returns at least 2"),
        (TWO + "s = Softmax(e1)", "float[N,3] e0, float[N,3] s", "exit 's' returns probabilities; return logits"),
        (
            TWO + "m = ReduceMean(e1)",
            "float[N,3] e0, float[1,1] m",
            "exit 'm' has 1 class; a classifier has at least 2",
        ),
        (
            TWO + "n = Constant<value_ints = [1]>() u = Unsqueeze(e1, n)",
            "float[N,3] e0, float[N,1,3] u",
            "have different numbers of dimensions: 'e0' 2, 'u' 3; select exits with --exits",
        ),
        (TWO + "i = Cast<to = 7>(e1)", "float[N,3] e0, int64[N,3] i", "exit 'i' is int64, which is a prediction"),
        (TWO + "w = Concat<axis = 1>(e1, e1)", "float[N,3] e0, float[N,6] w", "numbers of classes: 'e0' 3, 'w' 6"),
        (TWO + "l = Log(e1)", "float[N,3] e0, float[N,3] l", "exit 'l' is NaN or infinite on .* of 32 samples"),
        (TWO, "float[N,3] e1, float[N,3] e1", "two exits are named 'e1'"),
        (TWO + "k = Relu(a)", "float[N,3] e0, float[8,3] k", "exit 'k' depends on no input of the model"),
        (TWO + "i = Identity(e0)", "float[N,3] e0, float[N,3] i", "exits 'e0' and 'i' are the same value"),
        (TWO + "z = Add(r, r)", "float[N,8] r, float[N,8] z, float[N,8] r", "two exits are named 'r'"),
    ],
)
def test_outputs_that_cannot_be_exits_are_rejected(graph, out, body, outputs, match):
    assert_rejected(CompileError, out, graph(body, outputs=outputs), match)


@pytest.mark.parametrize(
    ("body", "inputs", "match"),
    [
        (ONE + "e1 = MatMul(ghost, b)", "float[N,8] x", r"\(MatMul\) reads 'ghost', which no node produces"),
        (ONE + "h = Relu(x) h = Tanh(x) e1 = MatMul(h, b)", "float[N,8] x", "ONNX file: .*Output 'h' is redecl"),
        (ONE + "h = other.Strange(x) e1 = MatMul(h, b)", "float[N,8] x", "Strange"),
        (ONE + "h = Nonsense(x) e1 = MatMul(h, b)", "float[N,8] x", "Nonsense"),
        (ONE + "i = Cast<to = 5>(x) s = Sin(i) h = Cast<to = 1>(s) e1 = MatMul(h, b)", "float[N,8] x", "Sin"),
        (ONE + "h = Reshape(x, s) e1 = MatMul(h, b)", "float[N,8] x, int64[N,2] s", "Reshape"),
        (ONE + "h = Softmax<axis = 0>(x) e1 = MatMul(h, b)", "float[N,8] x",
         "^the Softmax of 'h' mixes the samples of a batch"),
        (ONE + "e1 = MatMul(b, c)", "float[N,8] x", "exit 'e1' depends on no input of the model"),
        (TWO + "i = Identity(s)", "float[N,8] x, string[N] s", "input 's' has the type STRING; every input must be"),
        ("z = Constant<value_int = 0>() y = SequenceAt(x, z) e0 = MatMul(y, a) h = Relu(y) e1 = MatMul(h, b)",
         "seq(float[N,8]) x", "input 'x' is a SequenceType; every input must be a tensor"),
        (ONE + "h = Relu(x) e1 = MatMul(h, b)", "float[N,0] x", "input 'x' has a dimension of size 0"),
        (ONE + "h = Relu(x) e1 = MatMul(h, b)", "float[] x", "input 'x' has no shape"),
        (ONE + "h = Relu(x) e1 = MatMul(h, b)", "float x", "input 'x' has no dimensions"),
    ],
)  # fmt: skip
def test_an_invalid_graph_is_rejected(tmp_path, out, body, inputs, match):
    header = '<ir_version: 9, opset_import: ["": 18, "other": 1]>'
    model = onnx.parser.parse_model(f"{header} g ({inputs}) => (float[N,3] e0, float[N,3] e1) {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, shape in {"a": (8, 3), "b": (8, 3), "c": (3, 3)}.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "model.onnx")
    assert_rejected(CompileError, out, tmp_path / "model.onnx", match)


def test_weights_with_nan_are_rejected(tmp_path, out):
    weight = np.full((8, 3), np.nan, dtype=np.float32)
    path = save_graph(tmp_path / "nan.onnx", REUSED_EXIT, head0=(8, 3), head1=weight)
    assert_rejected(CompileError, out, path, "exit 'e1' is NaN or infinite on 32 of 32 samples")


def test_an_operator_that_the_opset_of_the_target_lacks_is_rejected(tmp_path, out, monkeypatch):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "old.toml").write_text(
        'description = "old"\narchitecture = "x86_64"\nruntime = "onnxruntime"\nprecisions = ["fp32"]\nopset = 13\n'
    )
    monkeypatch.chdir(tmp_path)
    square = "size = Constant<value_ints = [0, 2, 4]>() square = Reshape(x, size)"
    body = f"{ONE} {square} t = Trilu(square) flat = Flatten(t) e1 = MatMul(flat, b)"
    match = r"operator 'Trilu' \(which produces 't'\) cannot be expressed in opset 13 .*: it was added in opset 14"
    assert_rejected(CompileError, out, two_heads(tmp_path / "trilu.onnx", body), match, target="old")


def test_truncated_files_are_rejected(tmp_path, out, graph):
    content = graph(TWO).read_bytes()
    (tmp_path / "short.onnx").write_bytes(content[: len(content) // 2])
    assert_rejected(CompileError, out, tmp_path / "short.onnx", "short.onnx' is not a readable ONNX file")
    program = torch.export.export(Dense().eval(), (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "complete.pt2")
    content = (tmp_path / "complete.pt2").read_bytes()
    (tmp_path / "short.pt2").write_bytes(content[: len(content) // 2])
    assert_rejected(CompileError, out, tmp_path / "short.pt2", "short.pt2' is not a readable .pt2 file")


@pytest.mark.parametrize(
    ("inputs", "options", "match"),
    [
        ("float[1,8] x, float[4,8] y", {}, "different fixed first sizes: 'x' 1, 'y' 4; .*export the model with a dyn"),
        ("float[N,8] x", {"inputs": ["y:batch,8"]}, "the model has no input 'y'; it has 'x'"),
        ("float[N,8] x", {"inputs": ["x:batch,9"]}, "input 'x' is given as batch,9 float32, but .* batch,8 float32"),
        ("float[N,8] x", {"inputs": ["x:batch,8:int64"]}, "given as batch,8 int64"),
        ("float[N,8] x", {"inputs": ["x:batch,8,8"]}, "given as batch,8,8"),
    ],
)
def test_an_input_option_that_does_not_match_the_onnx_file_is_rejected(graph, out, inputs, options, match):
    assert_rejected(CompileError, out, graph(TWO, inputs=inputs), match, **options)


def test_an_onnx_file_with_an_unsupported_opset_or_without_its_data_is_rejected(graph, out, tmp_path):
    path = graph(TWO)
    model = onnx.load(path)
    model.opset_import[0].version = 1600
    onnx.save(model, tmp_path / "other.onnx")
    assert_rejected(
        CompileError, out, tmp_path / "other.onnx", "opset 1600 is too new: onnx .* supports [0-9]+; upgrade"
    )
    onnx.save(
        onnx.load(path), tmp_path / "apart.onnx", save_as_external_data=True, location="deleted", size_threshold=0
    )
    (tmp_path / "deleted").unlink()
    assert_rejected(CompileError, out, tmp_path / "apart.onnx", "weight 'a' in 'deleted' cannot be read")


def test_wrong_class_names_and_an_unknown_target_are_rejected(graph, out, tmp_path):
    assert_rejected(
        DataError, out, graph(TWO), "2 class names, but the exits have 3 classes", class_names=["cat", "dog"]
    )
    assert_rejected(TargetError, out, graph(TWO), "target 'toaster' is unknown", target="toaster")
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match="line 2 is empty"):
        load_class_names(tmp_path / "labels.txt")
    with pytest.raises(DataError, match=r"none\.txt' cannot be read: No such file or directory"):
        load_class_names(tmp_path / "none.txt")


def test_an_unknown_choice_does_not_delete_the_existing_bundle(graph, out, tmp_path):
    existing = compile_bundle(graph(TWO), out)
    for options, match in (
        ({"precision": "int4"}, "precision 'int4' is not one of"),
        ({"task": "detect"}, "task 'detect'"),
    ):
        with pytest.raises(CompileError, match=match):
            compile_bundle(graph(TWO), out, CompileOptions(**options), replace=True)
    assert Bundle.open(out).digest == existing.digest


def test_a_model_file_that_calls_sys_exit_is_rejected(tmp_path, out):
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    assert_rejected(CompileError, out, f"{tmp_path}/script.py:make", "cannot be imported: SystemExit")


def test_a_model_file_may_define_dataclasses(tmp_path, out):
    text = """from __future__ import annotations
from dataclasses import dataclass
from tests.compiler.networks import Dense
@dataclass
class Config:
    width: int = 4
def make():
    return Dense()
"""
    (tmp_path / "configured.py").write_text(text)
    bundle = compile_bundle(f"{tmp_path}/configured.py:make", out, CompileOptions(inputs=["input:batch,4"]))
    assert bundle.manifest.model == "configured"


def test_an_example_with_strings_is_rejected(out):
    texts = {"input": np.array(["a", "b"])}
    with pytest.raises(CompileError, match="'input' is <U1, which is not one of float32"):
        compile_bundle(Dense(), out, CompileOptions(example=texts))
