"""Durations of the parts of inferences under a policy, per exit: stages, decisions, and the remaining overhead."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.latency import ExitPath, summarise
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.profiling.steady import subsample_us

_Values = npt.NDArray[np.float64]


class InferenceTimes(NamedTuple):
    """The times of one inference."""

    latency_ms: float
    """From the call to the prediction of the last sample of the batch."""
    exits: npt.NDArray[np.int64]
    """[B] exits taken."""
    stage_ms: tuple[float, ...]
    decide_ms: tuple[float, ...]


def times_of(inference: Inference) -> InferenceTimes:
    """Return the times of an inference; its outputs and readouts are not referenced, so their memory can be freed."""
    return InferenceTimes(float(inference.latency_ms.max()), inference.exits, inference.stage_ms, inference.decide_ms)


def latencies_ms(inferences: Sequence[InferenceTimes]) -> _Values:
    """Return the latency of every inference, [N]."""
    return np.array([times.latency_ms for times in inferences])


def exits_taken(inferences: Sequence[InferenceTimes]) -> npt.NDArray[np.int64]:
    """Return the exits of all samples of all inferences, [N B]."""
    return np.concatenate([times.exits for times in inferences])


def decisions_ms(inferences: Sequence[InferenceTimes], stage: int) -> list[float]:
    """Return the durations of the decision after a stage, for the inferences that reached it."""
    return [times.decide_ms[stage] for times in inferences if len(times.decide_ms) > stage]


def exit_paths(inferences: Sequence[InferenceTimes], names: Sequence[str]) -> tuple[ExitPath, ...]:
    """Return how the latency is composed for each exit that a sample took, for inferences of single samples."""
    taken = exits_taken(inferences)
    paths = []
    for k in np.unique(taken):
        group = [times for times, exit_index in zip(inferences, taken, strict=True) if exit_index == k]
        latencies = latencies_ms(group)
        stages = np.array([times.stage_ms for times in group])
        decisions = np.array([sum(times.decide_ms) for times in group])
        paths.append(
            ExitPath(
                exit=names[k],
                latency=summarise(latencies),
                stages_ms=tuple(round(float(mean), 6) for mean in stages.mean(axis=0)),
                decisions_ms=round(float(decisions.mean()), 6),
                overhead_ms=round(float((latencies - stages.sum(axis=1) - decisions).mean()), 6),
                raw_us=subsample_us(latencies),
            )
        )
    return tuple(paths)
