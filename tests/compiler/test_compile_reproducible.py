"""The same model gives the same bundle in every process: the same digest, and the same names of carries."""

import os
import subprocess
import sys
from pathlib import Path

from tests.compiler.graphs import FUNCTIONS, save_graph

ROOT = Path(__file__).parents[2]
COMPILE = """
import sys
from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.networks import MultiScale
file, out = sys.argv[1:]
for bundle in (
    compile_bundle(MultiScale(), f"{out}/module", CompileOptions(inputs=["image:n,1,8,8"])),
    compile_bundle(file, f"{out}/file"),
):
    print(bundle.digest, [tensor.name for stage in bundle.manifest.stages for tensor in stage.carry_out])
"""


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path):
    path = save_graph(tmp_path / "model.onnx", FUNCTIONS, w=(8, 8), head=(8, 3), deep=(8, 8))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILE, str(path), str(tmp_path / seed)],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=120)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    assert "['h']" in first
    files = sorted(file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*.*"))
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file
