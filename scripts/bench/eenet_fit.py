"""Measures the time of an EENet fit: 10,000 samples, 5 exits, 100 classes. Run: python scripts/bench/eenet_fit.py."""

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from edgeexit.fitting import Budget, FitOptions, ReadoutDataset, fit_policy
from edgeexit.fitting.kinds.eenet.kind import eenet_policy

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET = 2.5


def draw(samples: int, exits: int, classes: int) -> ReadoutDataset:
    """Draw samples of varying difficulty, on which deeper exits are more accurate; exit k costs k + 1."""
    random = np.random.default_rng(0)
    truth, difficulty = random.integers(0, classes, samples), random.exponential(1, samples) + 0.3
    logits = random.normal(size=(samples, exits, classes))
    for k in range(exits):
        logits[np.arange(samples), k, truth] += (2 + 2 * k) / difficulty
    return ReadoutDataset.from_logits(logits, costs=tuple(float(k + 1) for k in range(exits)), labels=truth)


def main() -> None:
    """Run the fits in alternation, and print seconds and the ratio to the confidence fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--exits", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="fits per method; default: %(default)s")
    options = parser.parse_args()
    dataset = draw(options.samples, options.exits, options.classes)
    fits: dict[str, Callable[[], object]] = {
        "confidence": lambda: fit_policy("confidence", dataset, Budget(cost=BUDGET)),
        "eenet, temperatures not fitted": lambda: fit_policy(
            "eenet", dataset, Budget(cost=BUDGET), FitOptions(temperatures=False)
        ),
        "eenet": lambda: fit_policy("eenet", dataset, Budget(cost=BUDGET)),
        "eenet, published method": lambda: eenet_policy(dataset, BUDGET),
    }
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(options.rounds):
        for name, fit in fits.items():
            start = time.perf_counter()
            fit()
            seconds[name].append(time.perf_counter() - start)
    reference = statistics.median(seconds["confidence"])
    print(f"{options.samples} samples, {options.exits} exits, {options.classes} classes, {options.rounds} rounds")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"{name:34} {median:6.2f} s ({min(taken):.2f} to {max(taken):.2f}), {median / reference:.1f} x confidence"
        )


if __name__ == "__main__":
    main()
