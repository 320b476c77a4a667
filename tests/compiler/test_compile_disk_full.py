"""If the disk becomes full during a compilation, one line names the file, and no files remain."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiler.graphs import REUSED_EXIT, save_graph

ROOT = Path(__file__).parents[2]
COMPILE = """
import resource, sys
from edgeexit.compiler import compile_bundle
from edgeexit.errors import EdgeExitError
model, folder = sys.argv[1:3]
for number, limit in enumerate(map(int, sys.argv[3:])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        compile_bundle(model, f"{folder}/{number}/new/bundle")
        result = "written"
    except EdgeExitError as error:
        result = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(result)
"""
"""With a limit on the file size, a write fails as on a full disk."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the file size")
def test_a_file_that_cannot_be_written_is_named_and_no_files_remain(tmp_path):
    # The golden samples are 8 rows of 600 numbers; the weights are two 600 x 3 matrices, aligned to 4 KiB.
    path = save_graph(tmp_path / "model.onnx", REUSED_EXIT.replace("N,8]", "N,600]"), head0=(600, 3), head1=(600, 3))
    limits = ["1000", "16000", "100000"]
    command = [sys.executable, "-c", COMPILE, str(path), str(tmp_path / "out"), *limits]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    lines = result.stdout.splitlines()
    assert lines[0] == "weights.bin cannot be written: File too large"
    assert lines[1].endswith("golden.npz cannot be written: File too large")
    assert lines[2] == "written"
    assert [place.name for place in (tmp_path / "out").iterdir()] == ["2"]
