"""Measures what it costs that ONNX Runtime gets verified weights from memory instead of opening the files itself.

    python scripts/bench/loading.py BUNDLE [--rounds 3]

Three ways to open the sessions of all stages, in turn, each in a new process with warm file caches:

- `files`: ONNX Runtime opens the files, unverified.
- `mapped`: the weights are mapped from the open file that was verified.
- `read`: the weights are read into memory and verified.

Anonymous memory cannot be dropped by the system without swap; the pages of a mapped file can. The seconds contain the
verification of graphs and weights (SHA-256), but neither imports nor `Bundle.open`, which verifies all files once, too.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

_PROCESS = """
import gc, json, sys, time
from pathlib import Path
from edgeexit.backends.onnxruntime import sessions
from edgeexit.backends.onnxruntime.backend import session_options
from edgeexit.bundle import Bundle
from edgeexit.bundle.stage_graphs import read_stage_graph
from edgeexit.targets import load_target
import onnxruntime as ort
way, bundle = sys.argv[1], Bundle.open(Path(sys.argv[2]))
target = load_target(bundle.manifest.target)
sessions._MAX_COPIED_BYTES = 0 if way == "mapped" else 1 << 40
def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024
before, started = anonymous(), time.perf_counter()
opened = []
if way == "files":
    for stage in bundle.manifest.stages:
        path = str(bundle.path / stage.file)
        opened.append(ort.InferenceSession(path, session_options(target), providers=["CPUExecutionProvider"],
                                           disabled_optimizers=sessions.UNSAFE_OPTIMISERS))
else:
    graphs = [read_stage_graph(bundle, stage) for stage in bundle.manifest.stages]
    weights = sessions.Weights(bundle, graphs)
    for graph in graphs:
        opened.append(sessions.StageSession(graph.content, session_options(target), "CPUExecutionProvider",
                                            stored=graph.weights, weights=weights))
    weights.require_unchanged()
    del weights
seconds = time.perf_counter() - started
gc.collect()
print(json.dumps([seconds, anonymous() - before]))
"""


def main() -> None:
    """Print the medians of every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways = ("files", "mapped", "read")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            command = [sys.executable, "-c", _PROCESS, way, str(options.bundle)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own text
            found[way].append(json.loads(run.stdout))
    size = sum(file.stat().st_size for file in options.bundle.glob("*.bin")) / 2**20
    print(f"{size:.0f} MiB of weights; medians of {options.rounds}")
    for way in ways:
        seconds, anonymous = (statistics.median(values) for values in zip(*found[way], strict=True))
        print(f"{way:8} {seconds:6.2f} s  {anonymous:6.0f} MiB of anonymous memory")


if __name__ == "__main__":
    main()
