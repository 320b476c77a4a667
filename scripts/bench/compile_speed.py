"""Measures the time of each compilation step: a ResNet-56 with four exits, and a graph of 5,000 nodes with twelve.

    python scripts/bench/compile_speed.py [--json]

The export step includes the exporter and a run of the full model. `ours` is the sum of split, readout and write, which
this project implements itself.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resnet56 import ResNet56
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.progress import Progress

_NODES = 5000
_EXITS = 12
_OURS = ("split", "readout", "write")


def write_long_graph(path: Path) -> None:
    """Write a residual graph of about 5,000 nodes with twelve exits [B, 10] on vectors [B, 16]."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((16, 16)) / 8, "head": rng.standard_normal((16, 10))}
    nodes, x, each = [], "x", _NODES // _EXITS
    for stage in range(_EXITS):
        while len(nodes) < (stage + 1) * each - 1:
            name = f"n{len(nodes)}"
            nodes += [
                helper.make_node("MatMul", [x, "w"], [f"{name}.m"]),
                helper.make_node("Relu", [f"{name}.m"], [f"{name}.r"]),
                helper.make_node("Add", [x, f"{name}.r"], [f"{name}.a"]),
                helper.make_node("Tanh", [f"{name}.a"], [name]),
            ]
            x = name
        nodes.append(helper.make_node("MatMul", [x, "head"], [f"exit{stage}"]))
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info(f"exit{stage}", TensorProto.FLOAT, ["N", 10]) for stage in range(_EXITS)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


class _StepTimes(Progress):
    """Records when each step begins."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float]] = []

    def step(self, name: str) -> None:
        self.marks.append((name, time.perf_counter()))


def seconds_per_step(source: Path | nn.Module, out: Path, inputs: tuple[str, ...] = ()) -> dict[str, float]:
    """Compile and return the seconds of each step, of `ours` and in total."""
    times = _StepTimes()
    compile_bundle(source, out, CompileOptions(inputs=inputs), replace=True, progress=times)
    times.step("end")
    marks = times.marks
    steps = {step: after - start for (step, start), (_, after) in pairwise(marks)}
    return steps | {
        "ours": sum(took for step, took in steps.items() if step in _OURS),
        "total": marks[-1][1] - marks[0][1],
    }


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print the figures as JSON")
    as_json = arguments.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        write_long_graph(Path(folder) / "long.onnx")
        figures = {
            "ResNet-56, 4 exits": seconds_per_step(ResNet56(), Path(folder) / "resnet", ("image:batch,3,32,32",)),
            "5,000 nodes, 12 exits": seconds_per_step(Path(folder) / "long.onnx", Path(folder) / "long"),
        }
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    steps = next(iter(figures.values()))
    print(f"{'seconds':<24}" + "".join(f"{step:>10}" for step in steps))
    for name, row in figures.items():
        print(f"{name:<24}" + "".join(f"{row[step]:>10.2f}" for step in steps))


if __name__ == "__main__":
    main()
