"""Measures the time that the agent adds to an inference: `Agent.infer` against `Runner.infer`, in alternation.

    python scripts/bench/agent_overhead.py --bundle FOLDER [--samples 4000] [--json]

Runs the golden samples one at a time in one thread, without a broker. The agent adds counters and the random choice of
audits; both sides refuse inputs that are not finite. The difference is the median over pairs. It matters most for
small models.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.runtime import Runner
from edgeexit.wire import BrokerConfig

_WARM_UP = 50


def measure(bundle: Bundle, samples: int) -> dict[str, float]:
    """Return medians in microseconds, and the ratio of the medians."""
    golden = bundle.golden().inputs
    count = len(next(iter(golden.values())))
    batches = [{name: array[row : row + 1] for name, array in golden.items()} for row in range(count)]
    runner_us, agent_us = np.empty(samples), np.empty(samples)
    with tempfile.TemporaryDirectory() as state:
        config = AgentConfig(
            fleet="bench", state_dir=Path(state), broker=BrokerConfig(url="mqtt://127.0.0.1:9"), fallback=True
        )
        with Agent(bundle, config) as agent, Runner(bundle, not_finite=config.not_finite) as runner:
            policy = agent.active.policy

            def by_runner(number: int) -> object:
                return runner.infer(batches[number % count], policy=policy)

            def by_agent(number: int) -> object:
                return agent.infer(batches[number % count])

            for number in range(-_WARM_UP, samples):
                pair = [(by_runner, runner_us), (by_agent, agent_us)]
                for call, times in pair if number % 2 else reversed(pair):
                    elapsed_us = _time_us(call, number)
                    if number >= 0:
                        times[number] = elapsed_us
    return {
        "runner_us": float(np.median(runner_us)),
        "agent_us": float(np.median(agent_us)),
        "added_us": float(np.median(agent_us - runner_us)),
        "ratio": float(np.median(agent_us) / np.median(runner_us)),
    }


def _time_us(call: Callable[[int], object], number: int) -> float:
    started = time.perf_counter_ns()
    call(number)
    return (time.perf_counter_ns() - started) / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a bundle with a policy")
    parser.add_argument("--samples", type=int, default=4000, help="number of pairs; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    found = measure(Bundle.open(options.bundle), options.samples)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"Runner.infer {found['runner_us']:.1f} us, Agent.infer {found['agent_us']:.1f} us: "
        f"the agent adds {found['added_us']:.2f} us ({found['ratio']:.3f}x)"
    )


if __name__ == "__main__":
    main()
