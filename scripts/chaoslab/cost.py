"""What the fleet link costs a device: processor time and memory, at 100 inferences a second with 10 s windows."""

import subprocess
import sys
from pathlib import Path

import msgspec

from scripts.chaoslab.lab import Check, Lab

_RATE = 100
_MAX_CORE = 0.01
_MAX_BYTES = 30 * 1024 * 1024
_INFERENCE_THREADS = ("MainThread", "agent-auditor", "runner")
"""Threads that run the model; every other thread belongs to the link."""


class Measurement(msgspec.Struct):
    """What `cost_process` prints."""

    threads: dict[str, float]
    resident_bytes: int


def link_cost(lab: Lab) -> list[Check]:
    """Compare an agent with the runner alone."""
    broker = lab.broker()
    lab.calibrator(broker.url)
    seconds = 120.0 if lab.long else 11.0
    lab.progress("the runner alone")
    runner = _measure("runner", lab.bundle.path, 1.0)
    lab.progress("the agent")
    agent = _measure("agent", lab.bundle.path, seconds, broker.url, str(lab.folder / "state"))
    link = {name: used for name, used in agent.threads.items() if not name.startswith(_INFERENCE_THREADS)}
    fraction = sum(link.values()) / seconds
    memory = agent.resident_bytes - runner.resident_bytes
    shown = ", ".join(f"{name} {100 * used / seconds:.2f} %" for name, used in sorted(link.items()))
    return [
        Check(
            situation=lab.name,
            promise="the link needs less than 1 % of one core",
            counted=f"{100 * fraction:.2f} % in {seconds:.0f} s ({shown})",
            kept=fraction < _MAX_CORE,
        ),
        Check(
            situation=lab.name,
            promise="agent and link need less than 30 MB more than the runner alone",
            counted=f"{memory / 1e6:.1f} MB more than {runner.resident_bytes / 1e6:.1f} MB",
            kept=memory < _MAX_BYTES,
        ),
    ]


def _measure(kind: str, bundle: Path, seconds: float, *more: str) -> Measurement:
    command = [
        sys.executable,
        "-m",
        "scripts.chaoslab.cost_process",
        kind,
        str(bundle),
        str(seconds),
        str(_RATE),
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - constant command
    if done.returncode:
        raise RuntimeError(f"cost_process {kind}: {done.stderr[-2000:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Measurement)
