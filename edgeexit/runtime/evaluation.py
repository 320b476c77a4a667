"""What policies make of a data set on this machine: sample by sample, in turns, each figure with its interval."""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Dataset
from edgeexit.latency import summarise
from edgeexit.policies import Policy
from edgeexit.policies.confidence import Confidence
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime.garbage import undisturbed
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.intervals import Interval, percentile_interval, ratio_intervals
from edgeexit.runtime.recording import Predictions, classes_of, count_right
from edgeexit.runtime.runner import Runner

FULL_MODEL: Final = "full model"
"""The name under which every evaluation has the whole model, to compare with."""

_Values = npt.NDArray[np.float64]


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """From the call to the answer, in ms; a percentile with too few samples behind it is null."""

    mean_ms: Interval
    p50_ms: Interval
    p90_ms: Interval | None
    p99_ms: Interval | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy makes of a data set, sample by sample (batch 1); to segment, every pixel is an answer."""

    samples: int
    accuracy: Interval | None
    """Share of right answers among those that count; null without labels."""
    agreement: Interval
    """Share of answers that are the final exit's."""
    exit_rates: tuple[Interval, ...]
    """[K] share of samples that leave at each exit."""
    latency: LatencyFigures
    speedup: Interval
    """Mean latency of the whole model over this one's, measured side by side."""
    layer_speedup: Interval
    """The same counted in exits passed, as papers do: K N / sum over the samples of (exit + 1)."""


class _Trial:
    """Every sample's answer under one policy: what figures are made of."""

    def __init__(self, samples: int) -> None:
        self.exits = np.empty(samples, dtype=np.int64)
        self.latency_ms = np.empty(samples, dtype=np.float64)
        self.agreed = np.empty(samples, dtype=np.float64)
        """Share of the sample's answers that are the final exit's."""
        self.right = np.zeros(samples, dtype=np.float64)
        self.counted = np.zeros(samples, dtype=np.float64)
        """Number of the sample's answers that have a label."""

    def take(self, index: int, result: Inference, final: Predictions, label: npt.NDArray[np.int64] | None) -> None:
        predictions = _predictions(result)
        self.exits[index] = result.exits[0]
        self.latency_ms[index] = result.latency_ms[0]
        self.agreed[index] = (predictions == final).mean()
        if label is not None:
            right, counted = count_right(predictions, label)
            self.right[index], self.counted[index] = right[0], counted[0]


def full_model_policy(exits: int) -> Confidence:
    """Return the policy that never leaves early and reads next to nothing: the whole model, always."""
    return Confidence(temperatures=(1.0,) * exits, thresholds=(None,) * (exits - 1))


def evaluate(
    runner: Runner,
    dataset: Dataset,
    policies: Mapping[str, Policy],
    *,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Evaluation]:
    """Answer every sample alone under each policy, and under the whole model, which comes first as `FULL_MODEL`.

    The policies take turns on each sample (A B C, B C A ...), so that they share the machine's slow and fast moments.

    Args:
        runner: an open one.
        dataset: samples; with labels there are accuracies.
        policies: name -> policy.
        seed: of the resampling behind the intervals.
        progress: advances by one per sample.

    Raises PolicyError for a policy of another number of exits, and DataError for labels that are maps of another size
    than the exits'.

    """
    exits = len(runner.manifest.exits)
    contenders: dict[str, Policy] = {FULL_MODEL: full_model_policy(exits), **policies}
    names, trials = list(contenders), {name: _Trial(len(dataset)) for name in contenders}
    for policy in contenders.values():  # a first run is slow, and refusals come before the work
        runner.infer(next(dataset.batches(1)), policy=policy)
    with undisturbed():
        for index, sample in enumerate(dataset.batches(1)):
            first = index % len(names)
            results = {name: runner.infer(sample, policy=contenders[name]) for name in names[first:] + names[:first]}
            final = _predictions(results[FULL_MODEL])
            label = None if dataset.labels is None else dataset.labels[index : index + 1]
            for name, result in results.items():
                trials[name].take(index, result, final, label)
            progress.advance(total=len(dataset))
    whole = trials[FULL_MODEL]
    return {name: _figures(trial, whole, exits=exits, seed=seed) for name, trial in trials.items()}


def _predictions(result: Inference) -> Predictions:
    """Return the answers [1] of a policy, or the map [1, H, W] of the exit taken."""
    return result.predictions if result.outputs.ndim == 2 else classes_of(result.outputs)  # noqa: PLR2004 - [B, C]


def _figures(trial: _Trial, whole: _Trial, *, exits: int, seed: int) -> Evaluation:
    one = np.ones(len(trial.exits))
    ratios: list[tuple[_Values, _Values]] = [
        (trial.agreed, one),
        (trial.latency_ms, one),
        (whole.latency_ms, trial.latency_ms),
        (exits * one, trial.exits + one),
        *(((trial.exits == k).astype(np.float64), one) for k in range(exits)),
    ]
    if trial.counted.any():
        ratios.append((trial.right, trial.counted))
    over, under = (np.stack(columns, axis=1) for columns in zip(*ratios, strict=True))
    agreement, mean_ms, speedup, layer_speedup, *rest = ratio_intervals(over, under, seed=seed)
    return Evaluation(
        samples=len(trial.exits),
        accuracy=rest[exits] if trial.counted.any() else None,
        agreement=agreement,
        exit_rates=tuple(rest[:exits]),
        latency=_latency(trial.latency_ms, mean_ms, seed),
        speedup=speedup,
        layer_speedup=layer_speedup,
    )


def _latency(values: _Values, mean_ms: Interval, seed: int) -> LatencyFigures:
    summary = summarise(values)
    return LatencyFigures(
        mean_ms=mean_ms,
        p50_ms=percentile_interval(values, 50, seed=seed),
        p90_ms=None if summary.p90_ms is None else percentile_interval(values, 90, seed=seed),
        p99_ms=None if summary.p99_ms is None else percentile_interval(values, 99, seed=seed),
    )
