"""Two bundles against each other on one machine: the same samples in turns, A B, B A, so that both share its moods."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset, Inputs, check_inputs
from edgeexit.errors import DataError
from edgeexit.policies import Policy
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime.intervals import Interval
from edgeexit.runtime.profiling.machine import machine_name
from edgeexit.runtime.profiling.steady import steady
from edgeexit.runtime.runner import Runner
from edgeexit.targets import load_target
from edgeexit.telemetry import Sampler, find_probe

_ROUNDS: Final = 8
"""Each opens both anew, the other one first: where a session lies in memory is good or bad luck of up to 1 % and more,
which no number of turns evens out."""
_T_95: Final = 2.365
"""Student's t, two-sided 95 %, for 8 rounds: 7 degrees of freedom."""

T = TypeVar("T")
_Values = npt.NDArray[np.float64]
_Stages = tuple[float, ...]


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison."""

    bundle: str
    """Digest."""
    precision: str
    runtime: str
    warnings: tuple[str, ...] = ()
    """What differs from what the bundle's target names."""
    policy: str | None
    exit_ms: dict[str, float]
    """Exit -> median time of the stages up to it, every one forced to run."""
    end_to_end_ms: float | None
    """Mean under the bundle's own policy; null where one of the two has none."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What the second bundle takes, over what the first one takes."""

    machine: str
    turns: int
    """Samples that both ran, each with every stage."""
    a: Contender
    b: Contender
    exits: dict[str, Interval]
    """Exit that both have -> median ratio of the times to reach it in a turn, B over A, with its 95 % interval."""
    end_to_end: Interval | None
    """Ratio of the mean times under each one's own policy; null where one has none."""
    invalid: str | None = None
    """Why it says nothing; null: it does."""


class _Round(NamedTuple):
    """What both took in one round; a column a side."""

    forced: tuple[_Values, _Values]
    """[N, K] each: times to reach every exit, all stages forced to run."""
    early: _Values | None
    """[N, 2] under their policies."""


def compare_bundles(
    a: Bundle,
    b: Bundle,
    *,
    dataset: Dataset | None = None,
    seconds: float = 3.0,
    progress: Progress = NO_PROGRESS,
) -> Comparison:
    """Run both bundles on the same samples, one at a time, in turns, for `seconds`; under their policies for as long.

    Args:
        a: what to compare with.
        b: what to compare.
        dataset: samples that fit both; default: the golden ones of `a`.
        seconds: of steady state over all rounds, each after a warm-up of 0.2 s.
        progress: receives the name of each step.

    Raises DataError for bundles that have no exit of one name, or samples that do not fit both.

    """
    shared = [name for name in a.manifest.exits if name in b.manifest.exits]
    if not shared:
        raise DataError(
            f"'{a.path}' has exits {', '.join(a.manifest.exits)} and '{b.path}' {', '.join(b.manifest.exits)}: none of "
            "one name, so there is nothing to compare"
        )
    samples = dataset or Dataset(inputs=a.golden().inputs)
    for bundle in (a, b):
        check_inputs(samples.inputs, bundle.manifest.inputs, where=f"the samples for '{bundle.path}'")
    singles: list[Inputs] = list(samples.batches(1))
    policies = [None if (document := bundle.policy()) is None else document.policy for bundle in (a, b)]
    runners = Runner(a), Runner(b)
    rounds: list[_Round] = []
    with Sampler(find_probe(load_target(b.manifest.target).telemetry)) as sampler:
        for number in range(_ROUNDS):
            progress.step(f"round {number + 1} of {_ROUNDS}")
            done = sum(len(past.forced[0]) for past in rounds) % len(singles)
            with ExitStack() as opened:
                for runner in runners if number % 2 == 0 else runners[::-1]:
                    opened.enter_context(runner)
                rounds.append(_play(*runners, singles[done:] + singles[:done], policies, seconds / _ROUNDS))
    told = sampler.summary()
    columns = [[bundle.manifest.exits.index(name) for name in shared] for bundle in (a, b)]
    early = [past.early for past in rounds if past.early is not None]
    return Comparison(
        machine=machine_name(),
        turns=sum(len(past.forced[0]) for past in rounds),
        a=_contender(a, runners[0], policies[0], rounds, 0),
        b=_contender(b, runners[1], policies[1], rounds, 1),
        exits={
            name: _over_rounds([float(np.median(past.forced[1][:, of_b] / past.forced[0][:, of_a])) for past in rounds])
            for name, of_a, of_b in zip(shared, *columns, strict=True)
        },
        end_to_end=_over_rounds([float(times[:, 1].sum() / times[:, 0].sum()) for times in early]) if early else None,
        invalid=f"the machine was throttled: {'; '.join(told.reasons)}" if told.throttled else None,
    )


def _play(
    first: Runner, second: Runner, singles: Sequence[Inputs], policies: Sequence[Policy | None], seconds: float
) -> _Round:
    """Run one round on samples, from the first on."""

    def forced(turn: int) -> tuple[_Stages, _Stages]:
        inputs = singles[turn % len(singles)]
        return _in_turns(
            lambda: first.infer_every_exit(inputs).stage_ms, lambda: second.infer_every_exit(inputs).stage_ms, turn
        )

    stages = steady(seconds, forced).results
    reached = [np.cumsum(np.array([turn[side] for turn in stages]), axis=1) for side in (0, 1)]
    of_a, of_b = policies
    if of_a is None or of_b is None:
        return _Round((reached[0], reached[1]), None)

    def early(turn: int) -> tuple[float, float]:
        inputs = singles[turn % len(singles)]
        return _in_turns(
            lambda: float(first.infer(inputs, policy=of_a).latency_ms[0]),
            lambda: float(second.infer(inputs, policy=of_b).latency_ms[0]),
            turn,
        )

    return _Round((reached[0], reached[1]), np.array(steady(seconds, early).results))


def _in_turns(first: Callable[[], T], second: Callable[[], T], turn: int) -> tuple[T, T]:
    """Return what both give; they change places with every turn."""
    if turn % 2:
        late = second()
        return first(), late
    return first(), second()


def _contender(
    bundle: Bundle, runner: Runner, policy: Policy | None, rounds: Sequence[_Round], side: int
) -> Contender:
    reached = np.median(np.concatenate([past.forced[side] for past in rounds]), axis=0)
    early = [past.early[:, side] for past in rounds if past.early is not None]
    return Contender(
        bundle=bundle.digest,
        precision=bundle.manifest.precision,
        runtime=runner.runtime,
        warnings=tuple(runner.warnings),
        policy=None if policy is None else policy.kind,
        exit_ms=dict(zip(bundle.manifest.exits, np.round(reached, 6).tolist(), strict=True)),
        end_to_end_ms=round(float(np.concatenate(early).mean()), 6) if early else None,
    )


def _over_rounds(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of the rounds' ratios, with the 95 % interval of Student's t on their logarithms."""
    logs = np.log(ratios)
    noise = _T_95 * float(logs.std(ddof=1)) / math.sqrt(len(ratios))
    value, low, high = (math.exp(float(logs.mean()) + side * noise) for side in (0, -1, 1))
    return Interval(value=value, low=low, high=high)
