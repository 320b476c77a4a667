"""Measures the peak memory of fits, as a multiple of the recorded logits, and their duration.

    python scripts/bench/fit_memory.py [--size 50000x1000x4 ...] [--kind eenet ...] [--json]

A size is samples x classes x exits. Every fit runs alone in a fresh process, on the same random logits. Its peak is the
maximum resident memory minus that of the process before it loads the logits, so it includes them: 1.0 is the minimum.
The duration is processor time with one thread, which the other programs of the machine hardly change. Linux only.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.errors import EdgeExitError
from edgeexit.fitting import FITTING_KINDS, Budget, ReadoutDataset, choose_policy, fit_policy

AUTO = "auto"
SIZES = ("50000x1000x4", "2000x20000x2")
_BLOCK = 2**22
"""Number of logits that are drawn at once."""


def draw(folder: Path, samples: int, classes: int, exits: int) -> None:
    """Write the logits of samples of varying difficulty, on which deeper exits are more accurate, and their labels."""
    random = np.random.default_rng(0)
    labels, difficulty = random.integers(0, classes, samples), random.exponential(1, samples) + 0.3
    shape = (samples, exits, classes)
    logits = np.lib.format.open_memmap(folder / "logits.npy", mode="w+", dtype=np.float32, shape=shape)
    rows = max(_BLOCK // (exits * classes), 1)
    # The highest of C normal numbers is near sqrt(2 log C), so half of the samples are right at the first exit.
    signal = np.sqrt(2 * np.log(classes)) * (1 + np.arange(exits) / 2)
    for start in range(0, samples, rows):
        block = random.standard_normal((min(rows, samples - start), exits, classes), dtype=np.float32)
        place = slice(start, start + len(block))
        block[np.arange(len(block)), :, labels[place]] += signal / difficulty[place, None]
        logits[place] = block
    logits.flush()
    readouts = load(folder, labels, exits).readouts
    np.savez(folder / "rest.npz", labels=labels, readouts=readouts)


def load(folder: Path, labels: Any, exits: int, readouts: Any = None) -> ReadoutDataset:
    """Return the dataset in a folder; exit k costs k + 1."""
    return ReadoutDataset.from_logits(
        np.load(folder / "logits.npy"), costs=range(1, exits + 1), labels=labels, readouts=readouts
    )


def peak_bytes() -> int:
    """Return the maximum resident memory of this process so far.

    `resource.getrusage` is unsuitable: a child process starts with the maximum of its parent.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024


def measure(folder: Path, kind: str) -> dict[str, Any]:
    """Fit `kind` in this process, for half of the possible savings, and return what it took."""
    before = peak_bytes()
    with np.load(folder / "rest.npz") as rest:
        labels, readouts = rest["labels"], rest["readouts"]
    dataset = load(folder, labels, readouts.shape[1], readouts)
    goal = Budget(cost=(dataset.costs[0] + dataset.costs[-1]) / 2)
    logits = 4 * len(dataset) * dataset.exits * dataset.require_classes()
    found: dict[str, Any] = {"kind": kind, "logits_mib": logits / 2**20}
    start = time.process_time()
    try:
        fit = choose_policy(dataset, goal).fit if kind == AUTO else fit_policy(kind, dataset, goal)
    except EdgeExitError as error:
        found["failure"] = str(error)
    else:
        found |= {"fitted": fit.policy.kind, "mean_loss": fit.expected.mean_loss, "mean_cost": fit.expected.mean_cost}
    return found | {"seconds": time.process_time() - start, "peak_per_logits": (peak_bytes() - before) / logits}


def in_fresh_process(folder: Path, kind: str) -> dict[str, Any]:
    """Return the result of `measure`, or a failure if the process did not end well."""
    command = [sys.executable, __file__, "--measure", str(folder), "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this script
    if done.returncode:
        return {"kind": kind, "failure": f"exit status {done.returncode}: {done.stderr.strip()[-500:]}"}
    return dict(json.loads(done.stdout))


def print_row(row: dict[str, Any]) -> None:
    """Print one line of a table in Markdown."""
    if "peak_per_logits" not in row:
        print(f"| {row['kind']} | {row['failure']} |", flush=True)
        return
    remark = row.get("failure") or f"loss {row['mean_loss']:.4f} at cost {row['mean_cost']:.3f} ({row['fitted']})"
    print(f"| {row['kind']} | {row['peak_per_logits']:.2f} | {row['seconds']:.1f} | {remark} |", flush=True)


def main() -> None:
    """Run all fits of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", metavar="NxCxK", help=f"default: {' and '.join(SIZES)}")
    parser.add_argument(
        "--kind", action="append", choices=[*FITTING_KINDS, AUTO], help="default: every kind, and auto, which tries all"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.kind[0])))
        return
    results: dict[str, list[dict[str, Any]]] = {}
    for size in options.size or SIZES:
        samples, classes, exits = (int(number) for number in size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), samples, classes, exits)
            if not options.json:
                mib = 4 * samples * classes * exits / 2**20
                print(f"\n{samples:,} samples, {classes:,} classes, {exits} exits: logits of {mib:,.0f} MiB\n")
                print("| kind | peak / logits | seconds | |\n|---|---|---|---|", flush=True)
            rows = results.setdefault(size, [])
            for kind in options.kind or (*FITTING_KINDS, AUTO):
                rows.append(in_fresh_process(Path(folder), kind))
                if not options.json:
                    print_row(rows[-1])
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
