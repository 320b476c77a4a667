"""Measures staged inference against other forms of the same model: ResNet-56, four exits, random weights, one thread.

    python scripts/bench/staged.py [--rounds 60] [--json]

All contenders run in alternation on the same samples, each after a warm-up call. Only ratios are reported: the median
over the rounds, or the p99 over all rounds, with a 95 % interval over resamplings of the rounds. The rows:

- forced: `Runner.infer` under a policy without early exits, against `InferenceSession.run` of the exported graph with
  its four exits; both take an array and return new ones. The next rows compare with that graph bound to fixed memory,
  and with the graph of the final exit alone.
- under a policy: the mean of `Runner.infer`, against the sum over the stages of the fraction of samples that reach the
  stage times its p50, measured with bare bound sessions on the same path. The next rows replace the mean by the p50 of
  the samples at each exit, and by the mean of the bare sessions: a mean above the p50 is noise of the machine.
- decides: p50 of `Inference.decide_ms` at the slowest exit, in microseconds.
- eager, nested If: the same torch module in eager PyTorch, one stage at a time, with the same rule; and one ONNX graph
  with nested If, built from the exported graph. If predictions or exits differ, the benchmark ends with an error.
- batch 64: with samples that exit at all four exits, the cost of their own stages, each at the p50 of a full batch,
  divided by the time of `Runner.infer`.

About 40 %, 25 %, 20 % and 15 % of the samples exit at the four exits. A limit on a p99 counts as met unless the
interval excludes it.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse
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
from staged_models import (
    EXITS,
    IMAGE,
    BareStages,
    BoundSession,
    Eager,
    Models,
    Taken,
    make_images,
    make_models,
    make_runner,
    mixed_policy,
    open_session,
)
from turns import Ratio, Times, median_ratio, ratio_of, seconds_each, tail_ratio, take_turns

from edgeexit.policies import Policy
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import Array
from edgeexit.runtime import Runner

_SINGLES, _BATCH = 40, 64
_DECISIONS = 10
_OUT_OF_REACH = 1e30
_US = 1e6
_DECIDES: Final = "decides: "
Turn = Callable[[], Sequence[float]]
"""Runs some calls and returns seconds."""


class Row(NamedTuple):
    """One comparison."""

    what: str
    ratio: Ratio
    limit: float | None
    """Maximum for the ratio, or its minimum if `at_least`; None: no limit."""
    at_least: bool = False
    within_noise: bool = False
    """Whether the limit counts as met unless the interval excludes it."""

    @property
    def holds(self) -> bool | None:
        """Whether the limit is met; None if there is none."""
        if self.limit is None:
            return None
        if self.at_least:
            return self.ratio.value >= self.limit
        return (self.ratio.low if self.within_noise else self.ratio.value) <= self.limit


def measure(rounds: int) -> list[Row]:
    """Run all contenders in alternation, and return the rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        with make_runner(models) as runner:
            images, batch = make_images(_SINGLES, 100), make_images(_BATCH, 200)
            policy, batch_policy = mixed_policy(runner, images), mixed_policy(runner, batch)
            contenders = _every_stage(models, runner, images) | _other_forms(models, runner, policy, images)
            contenders |= _decisions(runner, images)
            stages, stages_64 = BareStages(models, 1), BareStages(models, _BATCH)
            exits = runner.infer({IMAGE: images}, policy=policy).exits
            contenders["path"] = lambda: np.ravel(
                [stages.seconds(images[n : n + 1], int(exits[n])) for n in [0, *range(_SINGLES)]][1:]
            )
            contenders["batch"] = lambda: seconds_each([lambda: runner.infer({IMAGE: batch}, policy=batch_policy)] * 2)
            contenders["full batch"] = lambda: stages_64.seconds(batch, len(EXITS) - 1)
            times = take_turns(contenders, rounds)
            batch_exits = runner.infer({IMAGE: batch}, policy=batch_policy).exits
    return _rows(times, exits, batch_exits)


def _every_stage(models: Models, runner: Runner, images: Array) -> dict[str, Turn]:
    """Return the contenders without early exits."""
    never = Confidence(temperatures=(1.0,) * len(EXITS), thresholds=(None,) * (len(EXITS) - 1))
    memory = {IMAGE: np.empty_like(images[:1])}
    bound = BoundSession(models.full, memory, dict.fromkeys(EXITS, (1, CLASSES)))

    def full_bound(image: Array) -> None:
        memory[IMAGE][:] = image
        bound.run()

    return {
        "forced": _each(images, lambda image: runner.infer({IMAGE: image}, policy=never)),
        "full": _each(images, lambda image: models.full.run(None, {IMAGE: image})),
        "full, bound": _each(images, full_bound),
        "final exit": _each(images, lambda image: models.final.run(None, {IMAGE: image})),
    }


def _other_forms(models: Models, runner: Runner, policy: Confidence, images: Array) -> dict[str, Turn]:
    """Return the contenders with early exits. Raises SystemExit if their predictions or exits differ."""
    thresholds = [threshold for threshold in policy.thresholds if threshold is not None]
    eager = Eager(models.network, thresholds)
    nested = open_session(models.target, nested_if(models.exported, thresholds, CLASSES))
    for image in images[:, None]:
        result = runner.infer({IMAGE: image}, policy=policy)
        _, prediction, taken = nested.run(OUTPUTS, {IMAGE: image})
        predictions = {
            Taken(int(result.predictions[0]), int(result.exits[0])),
            eager.infer(image),
            Taken(int(prediction[0]), int(taken[0])),
        }
        if len(predictions) > 1:
            raise SystemExit(f"the contenders have different results: {predictions}")
    return {
        "staged": _each(images, lambda image: runner.infer({IMAGE: image}, policy=policy)),
        "eager": _each(images, eager.infer),
        "nested If": _each(images, lambda image: nested.run(OUTPUTS, {IMAGE: image})),
    }


def _decisions(runner: Runner, images: Array) -> dict[str, Turn]:
    """Return one contender per kind of policy; its seconds are those of decisions under which no sample exits early."""

    def turn(policy: Policy) -> Turn:
        few = images[:_DECISIONS]
        return lambda: [
            ms / 1000
            for n in range(_DECISIONS)
            for ms in runner.infer({IMAGE: few[n : n + 1]}, policy=policy).decide_ms
        ]

    out_of_reach = (_OUT_OF_REACH,) * (len(EXITS) - 1)
    policies = [
        msgspec.structs.replace(policy, thresholds=out_of_reach) for policy in make_policies(len(EXITS), CLASSES)
    ]
    return {_DECIDES + policy.kind: turn(policy) for policy in policies}


def _each(images: Array, call: Callable[[Array], object]) -> Turn:
    """Return a turn that runs `call` on every image [1, 3, 32, 32] and returns the seconds of each call.

    A first call is not counted, because the previous contender has filled the caches with other data.
    """
    calls = [functools.partial(call, image) for image in images[:, None]]

    def turn() -> list[float]:
        calls[-1]()
        return seconds_each(calls)

    return turn


def _rows(times: Mapping[str, Times], exits: npt.NDArray[np.int64], batch_exits: npt.NDArray[np.int64]) -> list[Row]:
    forced, staged = times["forced"], times["staged"]
    rows = [
        Row("forced / full graph, p50", median_ratio(forced, times["full"]), 1.03),
        Row("forced / full graph, p99", tail_ratio(forced, times["full"]), 1.0, within_noise=True),
        Row("forced / full graph bound, p50", median_ratio(forced, times["full, bound"]), None),
        Row("forced / full graph bound, p99", tail_ratio(forced, times["full, bound"]), None),
        Row("forced / final exit alone, p50", median_ratio(forced, times["final exit"]), None),
    ]
    by_stage = times["path"].reshape(len(staged), -1, len(EXITS))
    own = (_reached(exits) / len(exits) * np.nanmedian(by_stage, axis=1)).sum(axis=1)
    bare = np.nansum(by_stage, axis=2).mean(axis=1)
    typical = sum(np.mean(exits == k) * np.median(staged[:, exits == k], axis=1) for k in range(len(EXITS)))
    rows.append(Row("under a policy, mean / own stages", ratio_of(staged.mean(axis=1) / own), 1.05))
    rows.append(Row("    p50 at each exit / own stages", ratio_of(typical / own), None))
    rows.append(Row("    bare sessions, mean / own stages", ratio_of(bare / own), None))
    for name, decide in times.items():
        if name.startswith(_DECIDES):
            slowest = np.median(decide.reshape(len(staged), -1, len(EXITS)), axis=1).max(axis=1)
            rows.append(Row(f"{name}, us", ratio_of(slowest * _US), 15.0))
    for other in ("eager", "nested If"):
        rows.append(Row(f"staged / {other}, p50", median_ratio(staged, times[other]), 1.0))
        rows.append(Row(f"staged / {other}, p99", tail_ratio(staged, times[other]), 1.0))
    ideal = (_reached(batch_exits) / len(batch_exits) * times["full batch"]).sum(axis=1)
    rows.append(Row("batch 64: own stages / actual", ratio_of(ideal / times["batch"].mean(axis=1)), 0.9, at_least=True))
    return rows


def _reached(exits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many samples reached each stage [K]."""
    return (exits[:, None] >= np.arange(len(EXITS))).sum(axis=0)


def _print_table(rows: Sequence[Row]) -> None:
    print(f"{'':<38}{'':>9}{'95 % interval':>22}{'limit':>10}")
    for row in rows:
        interval = f"{row.ratio.low:.3f} to {row.ratio.high:.3f}"
        limit = "" if row.limit is None else f"{'>=' if row.at_least else '<='} {row.limit:g}"
        missed = "" if row.holds in {None, True} else "  missed"
        print(f"{row.what:<38}{row.ratio.value:>9.3f}{interval:>22}{limit:>10}{missed}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="number of rounds")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.rounds)
    if arguments.json:
        print(
            json.dumps([row._asdict() | {"ratio": row.ratio._asdict(), "holds": row.holds} for row in rows], indent=2)
        )
    else:
        _print_table(rows)


if __name__ == "__main__":
    main()
