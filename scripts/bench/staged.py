"""Measures staged inference against other forms of the same model: ResNet-56, four exits, random weights, one thread.

    python scripts/bench/staged.py [--rounds 60] [--checkout FOLDER] [--json]

All variants run in alternation on the same samples, each after a warm-up call. The rows are ratios, except those of the
decisions: the median over the rounds, or the p99 over all rounds, with a 95 % interval over resamplings of the rounds.

- `without early exits / full graph`: `Runner.infer` under a policy under which no sample exits early, divided by
  `InferenceSession.run` of the exported graph with its four exits. Both take an array and return new ones.
- `.../ full graph with bound memory`: the same graph, with inputs and outputs bound to fixed memory.
- `.../ graph of the final exit`: the same graph without the early exits.
- `.../ bare sessions`: the graphs of all stages alone, with bound memory: what the fastest runner would reach.
- `other checkout, ...`: the same for the checkout FOLDER, e.g. a clone at an earlier commit, in a second process.
- `under a policy, mean / sum of stage p50`: the mean of `Runner.infer`, divided by the sum, over the stages, of the
  fraction of samples that reach the stage times the p50 of the stage. The p50 is measured on the same samples with bare
  sessions: the graphs alone, with bound memory.
- `under a policy, p50 at each exit / ...`: the same with the p50 of the samples at each exit in place of the mean.
- `bare sessions, mean / ...`: the same with the mean of the bare sessions. A value above 1 is noise of the machine.
- `decision, KIND, us`: p50 of `Inference.decide_ms` at the slowest exit, in microseconds.
- `under a policy / eager PyTorch`: the same torch module in eager PyTorch, one stage at a time, with the same rule.
- `under a policy / nested If`: one ONNX graph with nested If nodes, built from the exported graph. If predictions or
  exits differ between these variants, the benchmark ends with an error.
- `batch 64, stages at full-batch time / actual`: the sum, over the stages, of the fraction of samples that reach the
  stage times the duration of the stage with all 64 samples, divided by the duration of `Runner.infer`.

About 40 %, 25 %, 20 % and 15 % of the samples exit at the four exits.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse
import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from decisions import make_policies
from nested_if import OUTPUTS, nested_if
from resnet56 import CLASSES
from staged_checkout import CALLS, OtherCheckout
from staged_models import (
    EXITS,
    IMAGE,
    BareStages,
    BoundSession,
    Eager,
    Models,
    Result,
    make_images,
    make_models,
    make_runner,
    mixed_policy,
    open_session,
)
from turns import Ratio, Times, median_ratio, ratio_of, run_in_alternation, seconds_each, tail_ratio

from edgeexit.policies import Policy
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import Array
from edgeexit.runtime import Runner

_SINGLES, _BATCH = 40, 64
_SEED = 100
_DECISIONS = 10
_UNREACHABLE = 1e30
"""A threshold at which no sample exits."""
_US = 1e6
_DECISION: Final = "decision, "
_BARE: Final = "bare sessions, full depth"
_OTHER: Final = "other checkout, "
_NEIGHBOURS: Final = (
    "full graph",
    "without early exits",
    _OTHER + CALLS[0],
    _BARE,
    "under a policy",
    "bare sessions",
    _OTHER + CALLS[1],
)
"""Variants that run one after the other in each round, because their times are compared closely."""
Variant = Callable[[], Sequence[float]]
"""Runs the calls of one variant, and returns the duration of each in seconds."""


class Row(NamedTuple):
    """One row of the table."""

    label: str
    ratio: Ratio
    limit: float | None
    """Maximum for the ratio, or its minimum if `at_least`; None: no limit."""
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the limit is met; None if there is none."""
        if self.limit is None:
            return None
        if self.at_least:
            return self.ratio.value >= self.limit
        return self.ratio.value <= self.limit


def measure(rounds: int, checkout: Path | None) -> list[Row]:
    """Run all variants in alternation, and return the rows of the table."""
    with contextlib.ExitStack() as stack:
        models = make_models(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        with make_runner(models) as runner:
            images, batch = make_images(_SINGLES, _SEED), make_images(_BATCH, 200)
            policy, batch_policy = mixed_policy(runner, images), mixed_policy(runner, batch)
            variants = _without_early_exits(models, runner, images) | _with_early_exits(models, runner, policy, images)
            variants |= _decisions(runner, images)
            stages, stages_64 = BareStages(models, 1), BareStages(models, _BATCH)
            exits = runner.infer({IMAGE: images}, policy=policy).exits
            variants["bare sessions"] = lambda: np.ravel(
                [stages.seconds(images[n : n + 1], int(exits[n])) for n in [0, *range(_SINGLES)]][1:]
            )
            variants[_BARE] = _each(images, lambda image: stages.seconds(image, len(EXITS) - 1))
            if checkout is not None:
                other = stack.enter_context(OtherCheckout(checkout, _SINGLES, _SEED))
                variants |= {_OTHER + call: functools.partial(other.seconds, call) for call in CALLS}
            variants["batch"] = lambda: seconds_each([lambda: runner.infer({IMAGE: batch}, policy=batch_policy)] * 2)
            variants["full batch"] = lambda: stages_64.seconds(batch, len(EXITS) - 1)
            neighbours = {name: variants[name] for name in _NEIGHBOURS if name in variants}
            times = run_in_alternation(neighbours | variants, rounds)
            batch_exits = runner.infer({IMAGE: batch}, policy=batch_policy).exits
    return _rows(times, exits, batch_exits)


def _without_early_exits(models: Models, runner: Runner, images: Array) -> dict[str, Variant]:
    """Return the variants without early exits."""
    never = Confidence(temperatures=(1.0,) * len(EXITS), thresholds=(None,) * (len(EXITS) - 1))
    memory = {IMAGE: np.empty_like(images[:1])}
    bound = BoundSession(models.full, memory, dict.fromkeys(EXITS, (1, CLASSES)))

    def full_bound(image: Array) -> None:
        memory[IMAGE][:] = image
        bound.run()

    return {
        "without early exits": _each(images, lambda image: runner.infer({IMAGE: image}, policy=never)),
        "full graph": _each(images, lambda image: models.full.run(None, {IMAGE: image})),
        "full graph with bound memory": _each(images, full_bound),
        "graph of the final exit": _each(images, lambda image: models.final.run(None, {IMAGE: image})),
    }


def _with_early_exits(models: Models, runner: Runner, policy: Confidence, images: Array) -> dict[str, Variant]:
    """Return the variants with early exits. Raises SystemExit if their predictions or exits differ."""
    thresholds = [threshold for threshold in policy.thresholds if threshold is not None]
    eager = Eager(models.network, thresholds)
    nested = open_session(models.target, nested_if(models.exported, thresholds, CLASSES))
    for image in images[:, None]:
        result = runner.infer({IMAGE: image}, policy=policy)
        _, prediction, taken = nested.run(OUTPUTS, {IMAGE: image})
        results = {
            Result(int(result.predictions[0]), int(result.exits[0])),
            eager.infer(image),
            Result(int(prediction[0]), int(taken[0])),
        }
        if len(results) > 1:
            raise SystemExit(f"runner, eager PyTorch and nested If have different results for one sample: {results}")
    return {
        "under a policy": _each(images, lambda image: runner.infer({IMAGE: image}, policy=policy)),
        "eager PyTorch": _each(images, eager.infer),
        "nested If": _each(images, lambda image: nested.run(OUTPUTS, {IMAGE: image})),
    }


def _decisions(runner: Runner, images: Array) -> dict[str, Variant]:
    """Return one variant per kind of policy, which measures decisions at all exits; no sample exits early."""

    def variant(policy: Policy) -> Variant:
        few = images[:_DECISIONS]
        return lambda: [
            ms / 1000
            for n in range(_DECISIONS)
            for ms in runner.infer({IMAGE: few[n : n + 1]}, policy=policy).decide_ms
        ]

    unreachable = (_UNREACHABLE,) * (len(EXITS) - 1)
    policies = [
        msgspec.structs.replace(policy, thresholds=unreachable) for policy in make_policies(len(EXITS), CLASSES)
    ]
    return {_DECISION + policy.kind: variant(policy) for policy in policies}


def _each(images: Array, call: Callable[[Array], object]) -> Variant:
    """Return a variant that runs `call` on every image [1, 3, 32, 32].

    An additional first call is not measured, because the previous variant has filled the caches with other data.
    """
    calls = [functools.partial(call, image) for image in images[:, None]]

    def variant() -> list[float]:
        calls[-1]()
        return seconds_each(calls)

    return variant


def _rows(times: Mapping[str, Times], exits: npt.NDArray[np.int64], batch_exits: npt.NDArray[np.int64]) -> list[Row]:
    complete, early = times["without early exits"], times["under a policy"]
    full, bound, final = (
        times[name] for name in ("full graph", "full graph with bound memory", "graph of the final exit")
    )
    rows = [
        Row("without early exits / full graph, p50", median_ratio(complete, full), 1.03),
        Row("without early exits / full graph, p99", tail_ratio(complete, full), 1.05),
        Row("without early exits / full graph with bound memory, p50", median_ratio(complete, bound), None),
        Row("without early exits / full graph with bound memory, p99", tail_ratio(complete, bound), None),
        Row("without early exits / graph of the final exit, p50", median_ratio(complete, final), None),
        Row("without early exits / bare sessions, p50", median_ratio(complete, times[_BARE]), None),
        Row("without early exits / bare sessions, p99", tail_ratio(complete, times[_BARE]), None),
    ]
    by_stage = times["bare sessions"].reshape(len(early), -1, len(EXITS))
    stage_sum = (_reached(exits) / len(exits) * np.nanmedian(by_stage, axis=1)).sum(axis=1)
    bare = np.nansum(by_stage, axis=2).mean(axis=1)
    typical = sum(np.mean(exits == k) * np.median(early[:, exits == k], axis=1) for k in range(len(EXITS)))
    rows.append(Row("under a policy, mean / sum of stage p50", ratio_of(early.mean(axis=1) / stage_sum), 1.03))
    rows.append(Row("under a policy, p50 at each exit / sum of stage p50", ratio_of(typical / stage_sum), None))
    rows.append(Row("bare sessions, mean / sum of stage p50", ratio_of(bare / stage_sum), None))
    if _OTHER + CALLS[0] in times:
        before, before_early = (times[_OTHER + call] for call in CALLS)
        mean = ratio_of(before_early.mean(axis=1) / stage_sum)
        rows.append(Row(f"{_OTHER}without early exits / full graph, p50", median_ratio(before, full), None))
        rows.append(Row(f"{_OTHER}without early exits / full graph, p99", tail_ratio(before, full), None))
        rows.append(Row(f"{_OTHER}under a policy, mean / sum of stage p50", mean, None))
    for name, decide in times.items():
        if name.startswith(_DECISION):
            slowest = np.median(decide.reshape(len(early), -1, len(EXITS)), axis=1).max(axis=1)
            rows.append(Row(f"{name}, us", ratio_of(slowest * _US), 15.0))
    for other in ("eager PyTorch", "nested If"):
        rows.append(Row(f"under a policy / {other}, p50", median_ratio(early, times[other]), 1.0))
        rows.append(Row(f"under a policy / {other}, p99", tail_ratio(early, times[other]), 1.0))
    ideal = (_reached(batch_exits) / len(batch_exits) * times["full batch"]).sum(axis=1)
    batch_ratio = ratio_of(ideal / times["batch"].mean(axis=1))
    rows.append(Row("batch 64, stages at full-batch time / actual", batch_ratio, 0.9, at_least=True))
    return rows


def _reached(exits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many samples reached each stage [K]."""
    return (exits[:, None] >= np.arange(len(EXITS))).sum(axis=0)


def _print_table(rows: Sequence[Row]) -> None:
    print(f"{'':<58}{'ratio':>9}{'95 % interval':>22}{'limit':>10}")
    for row in rows:
        interval = f"{row.ratio.low:.3f} to {row.ratio.high:.3f}"
        limit = "" if row.limit is None else f"{'>=' if row.at_least else '<='} {row.limit:g}"
        missed = "" if row.holds in {None, True} else "  missed"
        print(f"{row.label:<58}{row.ratio.value:>9.3f}{interval:>22}{limit:>10}{missed}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="number of rounds")
    parser.add_argument("--checkout", type=Path, metavar="FOLDER", help="another checkout to measure in the same run")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.rounds, arguments.checkout)
    if arguments.json:
        print(
            json.dumps([row._asdict() | {"ratio": row.ratio._asdict(), "holds": row.holds} for row in rows], indent=2)
        )
    else:
        _print_table(rows)


if __name__ == "__main__":
    main()
