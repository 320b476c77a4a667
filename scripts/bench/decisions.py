"""Measures the time of a decision: every kind of policy at every exit, in microseconds.

    python scripts/bench/decisions.py [--classes 10 100] [--batch 1 256] [--exits 5] [--json]

Times `Policy.decide` alone, on readouts of random logits, in one thread. The table shows the slowest exit of each kind:
the median over the rounds of the mean CPU time of a call, which other programs affect less than the elapsed time. The
policies alternate within a round, so that a disturbance affects all of them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import statistics
import time
import timeit
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from edgeexit.fitting import FITTING_KINDS, FitOptions, ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.policies import Policy
from edgeexit.policies.readout import COLUMNS, TOP1, Array

_ROUNDS = 15
_ROUND_S = 0.004  # of one policy at one exit
_FITTING_SAMPLES = 500


class Timing(NamedTuple):
    """The duration of a policy's decision on a batch, at each exit."""

    policy: str
    classes: int
    batch: int
    median_us: tuple[float, ...]
    """[K]"""


def make_policies(exits: int, classes: int) -> list[Policy]:
    """Return one policy per registered kind, fitted to random readouts, with the median score as threshold."""
    readouts = np.stack(make_readouts(exits, classes, _FITTING_SAMPLES), axis=1)
    labels = readouts[:, -1, TOP1].astype(np.int64)
    costs = tuple(float(k + 1) for k in range(exits))
    dataset = ReadoutDataset.from_logits(np.log(readouts[:, :, len(COLUMNS) :]), costs=costs, labels=labels)
    options = FitOptions(temperatures=False).for_budget(costs[-1] / 2)
    policies = []
    for kind in FITTING_KINDS.values():
        candidate = kind.make_candidates(dataset, options)[-1]
        medians = np.median(replay(candidate, dataset).scores[:, :-1], axis=0)
        policies.append(msgspec.structs.replace(candidate, thresholds=tuple(medians.tolist())))
    return policies


def make_readouts(exits: int, classes: int, batch: int) -> list[Array]:
    """Return [K] readouts [B, 4 + C] of random logits."""
    random = np.random.default_rng(0)
    readouts = []
    for k in range(exits):
        exponents = np.exp(random.normal(0, 1 + k, (batch, classes)))
        p = exponents / exponents.sum(axis=1, keepdims=True)
        top = np.sort(p, axis=1)
        columns = (p.argmax(axis=1), top[:, -1], top[:, -2], -(p * np.log(p)).sum(axis=1))
        readouts.append(np.column_stack([*columns, p]).astype(np.float32))
    return readouts


def measure(exits: int, classes: int, batch: int) -> list[Timing]:
    """Time every policy at every exit, in alternation."""
    policies = make_policies(exits, classes)
    wide = make_readouts(exits, classes, batch)
    narrow = [np.ascontiguousarray(readout[:, : len(COLUMNS)]) for readout in wide]
    calls: list[tuple[timeit.Timer, int]] = []
    for policy in policies:
        state = policy.initial_state(batch)
        for k, readout in enumerate(wide if policy.reads_probabilities else narrow):
            timer = timeit.Timer(_call(policy, k, readout, state), timer=time.thread_time)
            once = min(timer.repeat(3, 10)) / 10
            calls.append((timer, max(1, int(_ROUND_S / once))))
            state = policy.decide(k, readout, state).state
    rounds = [[timer.timeit(number) / number * 1e6 for timer, number in calls] for _ in range(_ROUNDS)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return [
        Timing(policy.kind, classes, batch, tuple(medians[n * exits : (n + 1) * exits]))
        for n, policy in enumerate(policies)
    ]


def _call(policy: Policy, exit_index: int, readout: Array, state: Array) -> Callable[[], object]:
    return lambda: policy.decide(exit_index, readout, state)


def print_table(timings: list[Timing]) -> None:
    """Print one row per policy: its slowest exit for every number of classes and batch size."""
    columns = list(dict.fromkeys((timing.classes, timing.batch) for timing in timings))
    print("us per decision at the slowest exit (its index)")
    print(f"{'policy':12}" + "".join(f"{f'C={classes} B={batch}':>18}" for classes, batch in columns))
    for policy in dict.fromkeys(timing.policy for timing in timings):
        cells = []
        for timing in (timing for timing in timings if timing.policy == policy):
            slowest = max(timing.median_us)
            cells.append(f"{f'{slowest:.1f} ({timing.median_us.index(slowest)})':>18}")
        print(f"{policy:12}" + "".join(cells))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100], help="numbers of classes")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 256], help="batch sizes")
    parser.add_argument("--exits", type=int, default=5, help="number of exits; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the times at every exit as JSON")
    arguments = parser.parse_args()
    timings = [
        timing
        for classes in arguments.classes
        for batch in arguments.batch
        for timing in measure(arguments.exits, classes, batch)
    ]
    if arguments.json:
        print(json.dumps([timing._asdict() for timing in timings], indent=1))
    else:
        print_table(timings)


if __name__ == "__main__":
    main()
