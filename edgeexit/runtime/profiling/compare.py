"""Compares the latency of two bundles on one machine: both run the same samples in alternating order (A B, B A)."""

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
from edgeexit.runtime.profiling.steady import run_steady
from edgeexit.runtime.profiling.validity import reasons_of_machine
from edgeexit.runtime.runner import Runner
from edgeexit.targets import load_target
from edgeexit.telemetry import LoadMeter, MachineLoad, Sampler, find_probe
from edgeexit.telemetry.clocks import nominal_clocks

_ROUNDS: Final = 8
"""Each round opens both bundles again, in alternating order. The memory layout of a session changes its latency by 1 %
or more, and repetitions within one session do not average this out."""
_T_95: Final = 2.365
"""Student's t, two-sided 95 %, for 8 rounds: 7 degrees of freedom."""

T = TypeVar("T")
_Values = npt.NDArray[np.float64]
_StageTimes = tuple[float, ...]


class ComparedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison."""

    bundle: str
    """Digest of the bundle."""
    precision: str
    runtime: str
    warnings: tuple[str, ...] = ()
    """One line per difference from the bundle's target, e.g. another runtime."""
    policy: str | None
    """Kind of the bundle's policy."""
    exit_ms: dict[str, float]
    """Exit -> median total time of the stages up to it; every stage is forced to run."""
    end_to_end_ms: float | None
    """Mean latency under the bundle's own policy; null if one of the two bundles has no policy."""


class BundleComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of bundle B relative to that of bundle A."""

    machine: str
    pairs: int
    """Number of samples that both ran, with every stage."""
    a: ComparedBundle
    b: ComparedBundle
    exits: dict[str, Interval]
    """Common exit -> median ratio B / A of the times to reach it, with its 95 % interval."""
    end_to_end: Interval | None
    """Ratio B / A of the mean latencies, each under the bundle's own policy; null if one has no policy."""
    load: MachineLoad | None = None
    """What else the machine did during the comparison."""
    invalid: tuple[str, ...] = ()
    """Reasons why the comparison is not reliable, e.g. because the machine was throttled or busy; empty if it is
    reliable."""


class _Round(NamedTuple):
    """The times of both bundles in one round."""

    forced: tuple[_Values, _Values]
    """[N, K] for each bundle: times to reach every exit; every stage is forced to run."""
    early: _Values | None
    """[N, 2] latencies of both bundles under their policies; None if one has no policy."""


def compare_bundles(
    a: Bundle,
    b: Bundle,
    *,
    dataset: Dataset | None = None,
    seconds: float = 3.0,
    progress: Progress = NO_PROGRESS,
) -> BundleComparison:
    """Run both bundles in alternation on the same single samples: with every stage, and under their policies.

    Args:
        a: the reference.
        b: the bundle to compare with `a`.
        dataset: samples that match the inputs of both; default: the golden samples of `a`.
        seconds: duration with every stage, over all rounds; the same again under the policies. In each round, a
            warm-up of 0.2 s precedes both.
        progress: receives the name of each round.

    Raises DataError if the bundles have no exit name in common, or if the samples do not match the inputs of both.

    """
    common = [name for name in a.manifest.exits if name in b.manifest.exits]
    if not common:
        raise DataError(
            f"'{a.path}' has the exits {', '.join(a.manifest.exits)} and '{b.path}' has {', '.join(b.manifest.exits)}; "
            "there is no common exit to compare"
        )
    samples = dataset or Dataset(inputs=a.golden().inputs)
    for bundle in (a, b):
        check_inputs(samples.inputs, bundle.manifest.inputs, where=f"samples for '{bundle.path}'")
    singles: list[Inputs] = list(samples.batches(1))
    policies = [None if (document := bundle.policy()) is None else document.policy for bundle in (a, b)]
    runners = Runner(a), Runner(b)
    rounds: list[_Round] = []
    meter = LoadMeter()
    with Sampler(find_probe(load_target(b.manifest.target).telemetry)) as sampler:
        for number in range(_ROUNDS):
            progress.step(f"round {number + 1} of {_ROUNDS}")
            done = sum(len(one.forced[0]) for one in rounds) % len(singles)
            with ExitStack() as opened:
                for runner in runners if number % 2 == 0 else runners[::-1]:
                    opened.enter_context(runner)
                rounds.append(_run_round(*runners, singles[done:] + singles[:done], policies, seconds / _ROUNDS))
    load = meter.stop()
    columns = [[bundle.manifest.exits.index(name) for name in common] for bundle in (a, b)]
    early = [one.early for one in rounds if one.early is not None]
    return BundleComparison(
        machine=machine_name(),
        pairs=sum(len(one.forced[0]) for one in rounds),
        a=_compared(a, runners[0], policies[0], rounds, 0),
        b=_compared(b, runners[1], policies[1], rounds, 1),
        exits={
            name: _over_rounds([float(np.median(one.forced[1][:, of_b] / one.forced[0][:, of_a])) for one in rounds])
            for name, of_a, of_b in zip(common, *columns, strict=True)
        },
        end_to_end=_over_rounds([float(times[:, 1].sum() / times[:, 0].sum()) for times in early]) if early else None,
        load=load,
        invalid=reasons_of_machine(load, sampler.summary(), nominal_clocks()),
    )


def _run_round(
    first: Runner, second: Runner, singles: Sequence[Inputs], policies: Sequence[Policy | None], seconds: float
) -> _Round:
    """Run one round on `singles`, starting with the first one; `policies` are those of both bundles."""

    def every_stage(turn: int) -> tuple[_StageTimes, _StageTimes]:
        inputs = singles[turn % len(singles)]
        return _alternate(
            lambda: first.infer_every_exit(inputs).stage_ms, lambda: second.infer_every_exit(inputs).stage_ms, turn
        )

    stages = run_steady(seconds, every_stage).results
    reached = [np.cumsum(np.array([turn[side] for turn in stages]), axis=1) for side in (0, 1)]
    of_a, of_b = policies
    if of_a is None or of_b is None:
        return _Round((reached[0], reached[1]), None)

    def under_policy(turn: int) -> tuple[float, float]:
        inputs = singles[turn % len(singles)]
        return _alternate(
            lambda: float(first.infer(inputs, policy=of_a).latency_ms[0]),
            lambda: float(second.infer(inputs, policy=of_b).latency_ms[0]),
            turn,
        )

    return _Round((reached[0], reached[1]), np.array(run_steady(seconds, under_policy).results))


def _alternate(first: Callable[[], T], second: Callable[[], T], turn: int) -> tuple[T, T]:
    """Return the results of both functions; their order alternates with `turn`."""
    if turn % 2:
        result = second()
        return first(), result
    return first(), second()


def _compared(
    bundle: Bundle, runner: Runner, policy: Policy | None, rounds: Sequence[_Round], side: int
) -> ComparedBundle:
    reached = np.median(np.concatenate([one.forced[side] for one in rounds]), axis=0)
    early = [one.early[:, side] for one in rounds if one.early is not None]
    return ComparedBundle(
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
