"""Measures start-up: time and memory of `import edgeexit.agent`, of opening a bundle, and of a ready agent.

    python scripts/bench/startup.py [--bundle FOLDER] [--runs 9] [--json]

Every run is a new process with warm file caches. Its steps run one after the other, and the memory is the peak after
each step. Seconds count from the first line of Python; the start of the interpreter is listed separately. Without
`--bundle`, ResNet-56 with four exits is compiled first, which needs `edgeexit[compile]`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_PROCESS = """
import time
started = time.perf_counter()
import json, resource, sys, tempfile
def step(name):
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done.append((name, time.perf_counter() - started, peak_kb / 1024))
done = []
step("modules of this benchmark")
import edgeexit.agent
step("import edgeexit.agent")
from pathlib import Path
from edgeexit.bundle import Bundle
bundle = Bundle.open(Path(sys.argv[1]))
step("+ open the bundle")
from edgeexit.wire import BrokerConfig
with tempfile.TemporaryDirectory() as state:
    unreachable = BrokerConfig(url="mqtt://127.0.0.1:9")
    config = edgeexit.agent.AgentConfig(fleet="bench", state_dir=Path(state), broker=unreachable, fallback=True)
    with edgeexit.agent.Agent(bundle, config):
        step("+ start an agent with self-check")
print(json.dumps(done))
"""


class Step(NamedTuple):
    """Time and memory after one step of the start-up."""

    name: str
    seconds: float
    resident_mb: float
    """Peak resident memory so far."""


def measure(bundle: Path, runs: int) -> tuple[float, list[Step]]:
    """Return the seconds of an interpreter that runs `pass`, and the median of each step over `runs` processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    started: list[list[Step]] = []
    empty: list[float] = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True, env=environment)
        empty.append(time.perf_counter() - began)
        done = subprocess.run(  # noqa: S603 - the program above
            [sys.executable, "-c", _PROCESS, str(bundle)], check=True, env=environment, stdout=subprocess.PIPE
        )
        started.append([Step(*step) for step in json.loads(done.stdout)])
    steps = [
        Step(same[0].name, *(statistics.median(step[field] for step in same) for field in (1, 2)))
        for same in zip(*started[1:], strict=True)  # the first run filled the caches
    ]
    return statistics.median(empty[1:]), steps


def compile_resnet56(folder: Path) -> Path:
    """Compile the model of `resnet56.py`; return the bundle."""
    network = Path(__file__).with_name("resnet56.py")
    command = ["compile", f"{network}:ResNet56", "--input", "image:batch,3,32,32", "--out", str(folder / "resnet56")]
    subprocess.run([sys.executable, "-m", "edgeexit", *command], check=True, stdout=sys.stderr)  # noqa: S603 - our own command
    return folder / "resnet56"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: ResNet-56 with four exits, compiled here")
    parser.add_argument("--runs", type=int, default=9, help="number of measured processes; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        empty_s, steps = measure(options.bundle or compile_resnet56(Path(scratch)), options.runs)
    if options.json:
        print(json.dumps({"interpreter_s": empty_s, "steps": [step._asdict() for step in steps]}))
        return
    print(f"median of {options.runs} new processes; an empty interpreter takes {empty_s:.3f} s\n")
    print(f"| {'since the first line of Python':<36} | seconds | resident MB |")
    print(f"|{'-' * 38}|--------:|------------:|")
    for name, seconds, resident_mb in steps:
        print(f"| {name:<36} | {seconds:7.3f} | {resident_mb:11.1f} |")


if __name__ == "__main__":
    main()
