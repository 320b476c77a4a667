"""The size ranges of symbolic dimensions in bundles for TensorRT."""

import numpy as np
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError, EngineError
from tests.compiler.graphs import save_graph
from tests.recorded_progress import RecordedProgress

TEXT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,T,8] x) => (float[N,3] e0, float[N,3] e1) {
  c = Transpose<perm = [0, 2, 1]>(x) h = Conv<strides = [2], pads = [1, 1]>(c, w) p = ReduceMean<keepdims = 0>(h, axis)
  e0 = MatMul(p, head) r = Relu(h) s = Conv<pads = [1, 1]>(r, w) q = ReduceMax<keepdims = 0>(s, axis)
  e1 = MatMul(q, head) }"""
"""The carry has half the length of the input, which is the dimension T."""


@pytest.fixture
def compiled(tmp_path):
    """Compile the model; return the bundle and the warnings."""
    path = save_graph(tmp_path / "model.onnx", TEXT, w=(8, 8, 3), head=(8, 3), axis=np.array([2]))

    def make(target="nvidia-desktop", **options):
        progress = RecordedProgress()
        options = CompileOptions(target=target, **options)
        return compile_bundle(path, tmp_path / "bundle", options, progress=progress), progress.warnings

    return make


def test_the_range_of_a_carry_follows_from_the_range_of_the_input(compiled):
    bundle, warnings = compiled(dimensions={"T": (2, 16, 64)})
    (carry,) = bundle.manifest.stages[0].carry_out
    assert bundle.manifest.build_config.dimensions == {"T": (2, 16, 64), carry.shape[2]: (1, 8, 32)}
    assert not any("range" in warning for warning in warnings)


def test_without_ranges_a_warning_names_the_options(compiled):
    bundle, warnings = compiled()
    assert bundle.manifest.build_config.dimensions == {}
    (warning,) = (warning for warning in warnings if "range" in warning)
    assert "`edgeexit engines build` will need --dimension T=MIN,OPT,MAX" in warning
    assert "`edgeexit compile` with --dimension T=... stores all" in warning


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"dimensions": {"L": (1, 2, 3)}},
            CompileError,
            "--dimension 'L': .* the symbolic dimensions of the inputs are: 'T'",
        ),
        ({"dimensions": {"T": (3, 2, 1)}}, EngineError, "the range of 'T' is 3,2,1"),
        ({"dimensions": {"T": (1, 2, 3)}, "target": "x86-cpu"}, CompileError, "only TensorRT plans have size ranges"),
    ],
)
def test_invalid_ranges_are_rejected(compiled, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        compiled(**options)
    assert not (tmp_path / "bundle").exists()


def test_a_size_at_which_the_model_fails_is_reported(tmp_path):
    text = TEXT.replace("g (float[N,T,8] x)", "g (int64[N,T] ids)")
    text = text.replace("c = Transpose<perm = [0, 2, 1]>(x)", "v = Gather(words, ids) y = Add(v, places) "
                        "c = Transpose<perm = [0, 2, 1]>(y)")  # fmt: skip
    weights = {"words": (9, 8), "places": (1, 8), "w": (8, 8, 3), "head": (8, 3), "axis": np.array([2])}
    path = save_graph(tmp_path / "model.onnx", text.replace("pads = [1, 1]>(c", "pads = [0, 0]>(c"), **weights)
    with pytest.raises(CompileError, match="stage0 does not run on 'ids' 2x1"):
        compile_bundle(path, tmp_path / "bundle", CompileOptions(target="nvidia-desktop", dimensions={"T": (1, 8, 9)}))
