"""Inferences under a policy, taken apart: stages, decisions and what lies between them, exit by exit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.latency import ExitPath, summarise
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.profiling.steady import thinned_us

_Values = npt.NDArray[np.float64]


class Timed(NamedTuple):
    """One inference's times."""

    whole_ms: float
    """From the call to the answer of the sample that was answered last."""
    exits: npt.NDArray[np.int64]
    """[B] exits taken."""
    stage_ms: tuple[float, ...]
    decide_ms: tuple[float, ...]


def timed(inference: Inference) -> Timed:
    """Return an inference's times, and let its arrays go."""
    return Timed(float(inference.latency_ms.max()), inference.exits, inference.stage_ms, inference.decide_ms)


def whole_ms(mix: Sequence[Timed]) -> _Values:
    """Return the latency of every inference [N]."""
    return np.array([one.whole_ms for one in mix])


def exits_taken(mix: Sequence[Timed]) -> npt.NDArray[np.int64]:
    """Return the exits of all samples."""
    return np.concatenate([one.exits for one in mix])


def decisions_ms(mix: Sequence[Timed], stage: int) -> list[float]:
    """Return the durations of the decisions after a stage, of the inferences that came so far."""
    return [one.decide_ms[stage] for one in mix if len(one.decide_ms) > stage]


def exit_paths(mix: Sequence[Timed], names: Sequence[str]) -> tuple[ExitPath, ...]:
    """Return where the time of samples that were answered alone went, for each exit that one of them took."""
    taken = exits_taken(mix)
    paths = []
    for k in np.unique(taken):
        group = [one for one, exit_index in zip(mix, taken, strict=True) if exit_index == k]
        latencies = whole_ms(group)
        stages = np.array([one.stage_ms for one in group])
        decisions = np.array([sum(one.decide_ms) for one in group])
        paths.append(
            ExitPath(
                exit=names[k],
                latency=summarise(latencies),
                stages_ms=tuple(round(float(mean), 6) for mean in stages.mean(axis=0)),
                decisions_ms=round(float(decisions.mean()), 6),
                staging_ms=round(float((latencies - stages.sum(axis=1) - decisions).mean()), 6),
                raw_us=thinned_us(latencies),
            )
        )
    return tuple(paths)
