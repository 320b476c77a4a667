"""What staged running costs and gains, in one process and one thread: ResNet-56 with four exits, random weights.

    python scripts/bench/staged.py [--rounds 60] [--json]

All contenders take turns, on the same samples, each after a call to warm up, and only ratios are told: the median over
the rounds, or p99 over all of them, with the bounds within which 95 % of resamplings of the rounds put it. What each
row says:

- every stage forced: `Runner.infer` with a policy that lets nothing leave early, against `InferenceSession.run` of the
  exported graph with its four exits; both take an array and give new ones. Below it the same against that graph with
  everything bound to fixed memory, and against the graph of the final exit alone.
- under a policy: the mean of `Runner.infer` against the sum over the stages of the share that reached it times its
  p50, when the bare sessions run bound, one after the other, on the same path. Below it what stands on the left with
  the p50 of those that leave at an exit in place of the mean, and the mean of the bare sessions: a mean above the p50
  is this machine's doing.
- a decision: p50 of `Inference.decide_ms` at the slowest exit, in microseconds.
- rivals: the same torch module in eager PyTorch, a stage at a time, with the same rule; and one ONNX graph with nested
  If, made of the exported graph. All answer every sample alike, at the same exits, or this ends with an error.
- batch 64: samples that leave at all four exits; what their own stages cost them, each at the p50 of a full batch,
  over the time of `Runner.infer`.

About 40 %, 25 %, 20 % and 15 % of the samples leave at the four exits. A p99 is held to be no worse where its bounds
do not exclude that.
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
    Answer,
    BareStages,
    Bound,
    Eager,
    Models,
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
    """The most that is wanted, or the least where `at_least`; None: told for information."""
    at_least: bool = False
    within_noise: bool = False
    """Whether it is held where the bounds do not exclude it."""

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept."""
        if self.limit is None:
            return None
        if self.at_least:
            return self.ratio.value >= self.limit
        return (self.ratio.low if self.within_noise else self.ratio.value) <= self.limit


def measure(rounds: int) -> list[Row]:
    """Make the contenders, let them take turns, and return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        with make_runner(models) as runner:
            images, batch = make_images(_SINGLES, 100), make_images(_BATCH, 200)
            policy, batch_policy = mixed_policy(runner, images), mixed_policy(runner, batch)
            contenders = _whole(models, runner, images) | _rivals(models, runner, policy, images)
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


def _whole(models: Models, runner: Runner, images: Array) -> dict[str, Turn]:
    """Return every stage forced, and the whole graphs."""
    never = Confidence(temperatures=(1.0,) * len(EXITS), thresholds=(None,) * (len(EXITS) - 1))
    memory = {IMAGE: np.empty_like(images[:1])}
    bound = Bound(models.whole, memory, dict.fromkeys(EXITS, (1, CLASSES)))

    def whole_bound(image: Array) -> None:
        memory[IMAGE][:] = image
        bound.run()

    return {
        "forced": _each(images, lambda image: runner.infer({IMAGE: image}, policy=never)),
        "whole": _each(images, lambda image: models.whole.run(None, {IMAGE: image})),
        "whole, bound": _each(images, whole_bound),
        "final exit": _each(images, lambda image: models.final.run(None, {IMAGE: image})),
    }


def _rivals(models: Models, runner: Runner, policy: Confidence, images: Array) -> dict[str, Turn]:
    """Return the ways to leave early; ends the process where they do not answer alike."""
    thresholds = [threshold for threshold in policy.thresholds if threshold is not None]
    eager = Eager(models.network, thresholds)
    nested = open_session(models.target, nested_if(models.exported, thresholds, CLASSES))
    for image in images[:, None]:
        result = runner.infer({IMAGE: image}, policy=policy)
        _, prediction, taken = nested.run(OUTPUTS, {IMAGE: image})
        predictions = {
            Answer(int(result.predictions[0]), int(result.exits[0])),
            eager.infer(image),
            Answer(int(prediction[0]), int(taken[0])),
        }
        if len(predictions) > 1:
            raise SystemExit(f"the contenders do not answer alike: {predictions}")
    return {
        "staged": _each(images, lambda image: runner.infer({IMAGE: image}, policy=policy)),
        "eager": _each(images, eager.infer),
        "nested If": _each(images, lambda image: nested.run(OUTPUTS, {IMAGE: image})),
    }


def _decisions(runner: Runner, images: Array) -> dict[str, Turn]:
    """Return, for every kind of policy, turns that give the seconds of decisions that let nothing leave early."""

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
    """Return a turn that calls with every image [1, 3, 32, 32] and gives the seconds of each.

    A call goes before that is not counted: it finds the caches as the contender before has left them.
    """
    calls = [functools.partial(call, image) for image in images[:, None]]

    def turn() -> list[float]:
        calls[-1]()
        return seconds_each(calls)

    return turn


def _rows(times: Mapping[str, Times], exits: npt.NDArray[np.int64], batch_exits: npt.NDArray[np.int64]) -> list[Row]:
    forced, staged = times["forced"], times["staged"]
    rows = [
        Row("forced / whole graph, p50", median_ratio(forced, times["whole"]), 1.03),
        Row("forced / whole graph, p99", tail_ratio(forced, times["whole"]), 1.0, within_noise=True),
        Row("forced / whole graph bound, p50", median_ratio(forced, times["whole, bound"]), None),
        Row("forced / whole graph bound, p99", tail_ratio(forced, times["whole, bound"]), None),
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
    for rival in ("eager", "nested If"):
        rows.append(Row(f"staged / {rival}, p50", median_ratio(staged, times[rival]), 1.0))
        rows.append(Row(f"staged / {rival}, p99", tail_ratio(staged, times[rival]), 1.0))
    ideal = (_reached(batch_exits) / len(batch_exits) * times["full batch"]).sum(axis=1)
    rows.append(Row("batch 64: own stages / actual", ratio_of(ideal / times["batch"].mean(axis=1)), 0.9, at_least=True))
    return rows


def _reached(exits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many samples reached each stage [K]."""
    return (exits[:, None] >= np.arange(len(EXITS))).sum(axis=0)


def _print_table(rows: Sequence[Row]) -> None:
    print(f"{'':<38}{'':>9}{'95 % within':>18}{'wanted':>10}")
    for row in rows:
        bounds = f"{row.ratio.low:.3f} to {row.ratio.high:.3f}"
        wanted = "" if row.limit is None else f"{'>=' if row.at_least else '<='} {row.limit:g}"
        missed = "" if row.holds in {None, True} else "  missed"
        print(f"{row.what:<38}{row.ratio.value:>9.3f}{bounds:>18}{wanted:>10}{missed}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="turns of every contender")
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
