"""Large weights are stored in chunks outside the graphs; a full disk is an error that names the file."""

import contextlib
import resource
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeexit.compiler import compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import two_heads
from tests.compiler.staged_run import run_stages

WIDTH = 4096
MEGABYTE = 1 << 20


@contextlib.contextmanager
def file_size_limit(size):
    """Limit the size of files to `size` bytes while the block runs: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_wide(folder):
    """Write a model with 64 MB of external weights in a sparse file."""
    wide = TensorProto(name="wide", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
    wide.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "wide.data"), ("offset", 0), ("length", 4 * WIDTH * WIDTH)):
        wide.external_data.add(key=key, value=str(value))
    with (folder / "wide.data").open("wb") as file:
        file.truncate(4 * WIDTH * WIDTH)
        file.seek(4 * WIDTH * 7)
        file.write(np.linspace(-1, 1, WIDTH, dtype=np.float32).tobytes())
    rng = np.random.default_rng(0)
    heads = [numpy_helper.from_array(rng.standard_normal((WIDTH, 3)).astype(np.float32), f"head{k}") for k in (0, 1)]
    nodes = [
        helper.make_node("MatMul", ["x", "head0"], ["e0"]),
        helper.make_node("MatMul", ["x", "wide"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "head1"], ["e1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("e0", "e1")],
        [wide, *heads],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "wide.onnx")
    return folder / "wide.onnx"


def test_large_weights_are_neither_loaded_into_memory_nor_written_into_a_graph(tmp_path):
    path = save_wide(tmp_path)
    tracemalloc.start()
    try:
        bundle = compile_bundle(path, tmp_path / "bundle")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MEGABYTE
    assert (bundle.path / "weights.bin").stat().st_size > 4 * WIDTH * WIDTH
    assert all((bundle.path / stage.file).stat().st_size < 0.1 * MEGABYTE for stage in bundle.manifest.stages)
    golden = bundle.golden()
    outputs = run_stages(bundle, golden.inputs)
    np.testing.assert_allclose(outputs["e1"], golden.exits["e1"], atol=1e-4, rtol=1e-4)


def test_the_error_of_a_full_disk_names_the_file_and_no_files_remain(tmp_path):
    wide = save_wide(tmp_path)
    body = "e0 = MatMul(x, a) " + " ".join(f"r{k} = Relu(x)" for k in range(99)) + " e1 = MatMul(r98, b)"
    small = two_heads(tmp_path / "small.onnx", body)
    for path, limit, file in ((wide, MEGABYTE, "weights.bin"), (small, 64, r"\w+.onnx")):
        with file_size_limit(limit), pytest.raises(CompileError, match=f"^{file} cannot be written: File too large$"):
            compile_bundle(path, tmp_path / "out" / "bundle")
        assert not (tmp_path / "out").exists()
