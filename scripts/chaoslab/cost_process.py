"""Measures one process for `cost.py`: inferences at a fixed rate, by an agent or by a runner alone.

    python -m scripts.chaoslab.cost_process agent|runner BUNDLE SECONDS RATE [URL STATE_DIR]

Prints JSON: the processor seconds of each thread, and the resident memory. It is started in a new interpreter, so that
the memory of the imports counts.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgeexit.bundle import Bundle

_WARM_UP_S = 1.0
_WINDOW_S = 10.0
_CONNECT_S = 120.0


def main() -> None:
    """Run one measurement."""
    kind, folder, seconds, rate = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    bundle = Bundle.open(folder)
    if kind == "runner":
        from edgeexit.runtime import Runner, full_model_policy  # noqa: PLC0415 - the agent must not be imported here

        with Runner(bundle) as runner:
            policy = full_model_policy(len(bundle.manifest.stages))
            _measure(bundle, lambda inputs: runner.infer(inputs, policy=policy), seconds, rate)
        return
    from edgeexit.agent import Agent, AgentConfig  # noqa: PLC0415 - as above
    from edgeexit.wire import BrokerConfig  # noqa: PLC0415 - as above

    config = AgentConfig(
        fleet="chaos",
        device="cost",
        state_dir=Path(sys.argv[6]),
        broker=BrokerConfig(url=sys.argv[5]),
        report_interval_s=_WINDOW_S,
    )
    with Agent(bundle, config) as agent:
        deadline = time.monotonic() + _CONNECT_S
        while not agent.connected and time.monotonic() < deadline:
            time.sleep(0.05)
        if not agent.connected:
            raise SystemExit("the agent did not connect")
        _measure(bundle, agent.infer, seconds, rate)


def _measure(bundle: Bundle, infer: Callable[..., object], seconds: float, rate: float) -> None:
    spec = bundle.manifest.inputs[0]
    generator = np.random.default_rng(0)
    batches = [generator.standard_normal((1, int(spec.shape[1]))).astype(np.float32) for _ in range(256)]
    _infer(infer, spec.name, batches, _WARM_UP_S, rate)
    before = _processor_s()
    _infer(infer, spec.name, batches, seconds, rate)
    after = _processor_s()
    used = {name: round(after[name] - before.get(name, 0.0), 6) for name in after}
    sys.stdout.write(msgspec.json.encode({"threads": used, "resident_bytes": _resident()}).decode() + "\n")


def _infer(infer: Callable[..., object], name: str, batches: "list[np.ndarray]", seconds: float, rate: float) -> None:
    started = time.monotonic()
    for number in range(int(seconds * rate)):
        infer({name: batches[number % len(batches)]})
        time.sleep(max(started + (number + 1) / rate - time.monotonic(), 0))


def _processor_s() -> dict[str, float]:
    """Return the processor seconds of each Python thread, by name."""
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
        found[thread.name] = found.get(thread.name, 0.0) + int(text.split()[0]) / 1e9
    return found


def _resident() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
