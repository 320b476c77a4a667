"""Evaluates policies on a data set on this machine: accuracy, exits and latency, each with a confidence interval."""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Dataset
from edgeexit.errors import PolicyError
from edgeexit.latency import summarise
from edgeexit.policies import Policy
from edgeexit.policies.confidence import Confidence
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime.gc_freeze import gc_frozen
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.intervals import Interval, percentile_interval, ratio_intervals
from edgeexit.runtime.recording import Predictions, count_correct, not_finite, predictions_of
from edgeexit.runtime.runner import Runner

FULL_MODEL: Final = "full model"
"""Name of the full model in the results; every evaluation includes it as the reference."""

_Values = npt.NDArray[np.float64]


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Latency from the call to the prediction, in ms; a percentile is null if there are too few samples for it."""

    mean_ms: Interval
    p50_ms: Interval
    p90_ms: Interval | None
    p99_ms: Interval | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a policy on a data set, one sample at a time. For maps, every pixel or token is one prediction."""

    samples: int
    accuracy: Interval | None
    """Fraction of correct predictions, without those of `IGNORED` pixels; null without labels."""
    agreement: Interval
    """Fraction of predictions that equal the final exit's."""
    exit_rates: tuple[Interval, ...]
    """[K] fraction of samples that exit at each exit."""
    latency: LatencyFigures
    speedup: Interval
    """Mean latency of the full model divided by the mean latency under this policy, measured in alternation."""
    layer_speedup: Interval
    """Speed-up in number of stages, as papers compute it: K N / sum over the samples of (exit + 1)."""
    not_finite: int = 0
    """Number of samples with a prediction from logits of NaN or infinity, which means nothing."""


class _SampleResults:
    """The results of every sample under one policy."""

    def __init__(self, samples: int) -> None:
        self.exits = np.empty(samples, dtype=np.int64)
        self.latency_ms = np.empty(samples, dtype=np.float64)
        self.agreed = np.empty(samples, dtype=np.float64)
        """Fraction of the sample's predictions that equal the final exit's."""
        self.correct = np.zeros(samples, dtype=np.float64)
        """Number of the sample's correct predictions; 0 without labels."""
        self.counted = np.zeros(samples, dtype=np.float64)
        """Number of the sample's predictions that have a label; pixels with the label `IGNORED` have none."""
        self.not_finite = 0

    def store(self, index: int, result: Inference, final: Predictions, label: npt.NDArray[np.int64] | None) -> None:
        """Store the result of the sample at `index`."""
        predictions = _predictions(result)
        self.exits[index] = result.exits[0]
        self.latency_ms[index] = result.latency_ms[0]
        self.agreed[index] = (predictions == final).mean()
        self.not_finite += int(not_finite(result.outputs).sum())
        if label is not None:
            correct, counted = count_correct(predictions, label)
            self.correct[index], self.counted[index] = correct[0], counted[0]


def full_model_policy(exits: int) -> Confidence:
    """Return a policy under which no sample exits early. Its kind, confidence, has one of the fastest decisions."""
    return Confidence(temperatures=(1.0,) * exits, thresholds=(None,) * (exits - 1))


def evaluate(
    runner: Runner,
    dataset: Dataset,
    policies: Mapping[str, Policy],
    *,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Evaluation]:
    """Run every sample alone under the full model and under each policy. Return name -> evaluation, `FULL_MODEL` first.

    On each sample the policies run in rotating order (A B C, B C A ...), so that a slowdown of the machine affects
    all of them equally.

    Args:
        runner: an opened runner.
        dataset: samples; the accuracy needs labels.
        policies: name -> policy; the name `FULL_MODEL` is reserved.
        seed: seed of the bootstrap.
        progress: advances by one per sample.

    Raises PolicyError for a policy with another number of exits or classes than the bundle or with the name of the full
    model, DataError for label maps of
    another size than the exits' maps, and InferenceError if the runtime fails.

    """
    if FULL_MODEL in policies:
        raise PolicyError(f"no policy may be named '{FULL_MODEL}', because the reference has this name; give another")
    exits = len(runner.manifest.exits)
    compared: dict[str, Policy] = {FULL_MODEL: full_model_policy(exits), **policies}
    names, results = list(compared), {name: _SampleResults(len(dataset)) for name in compared}
    for policy in compared.values():  # warm-up; it also raises the PolicyError of any policy before the first sample
        runner.infer(next(dataset.batches(1)), policy=policy)
    with gc_frozen():
        for index, sample in enumerate(dataset.batches(1)):
            first = index % len(names)
            inferences = {name: runner.infer(sample, policy=compared[name]) for name in names[first:] + names[:first]}
            final = _predictions(inferences[FULL_MODEL])
            label = None if dataset.labels is None else dataset.labels[index : index + 1]
            for name, inference in inferences.items():
                results[name].store(index, inference, final, label)
            progress.advance(total=len(dataset))
    full_model = results[FULL_MODEL]
    return {name: _evaluation(result, full_model, exits=exits, seed=seed) for name, result in results.items()}


def _predictions(result: Inference) -> Predictions:
    """Return the prediction [1] under a policy; for maps, the map [1, H, W] of the exit taken."""
    return result.predictions if result.outputs.ndim == 2 else predictions_of(result.outputs)  # noqa: PLR2004 - [B, C]


def _evaluation(result: _SampleResults, full_model: _SampleResults, *, exits: int, seed: int) -> Evaluation:
    one = np.ones(len(result.exits))
    ratios: list[tuple[_Values, _Values]] = [
        (result.agreed, one),
        (result.latency_ms, one),
        (full_model.latency_ms, result.latency_ms),
        (exits * one, result.exits + one),
        *(((result.exits == k).astype(np.float64), one) for k in range(exits)),
    ]
    if result.counted.any():
        ratios.append((result.correct, result.counted))
    numerators, denominators = (np.stack(columns, axis=1) for columns in zip(*ratios, strict=True))
    agreement, mean_ms, speedup, layer_speedup, *rest = ratio_intervals(numerators, denominators, seed=seed)
    return Evaluation(
        samples=len(result.exits),
        accuracy=rest[exits] if result.counted.any() else None,
        agreement=agreement,
        exit_rates=tuple(rest[:exits]),
        latency=_latency(result.latency_ms, mean_ms, seed),
        speedup=speedup,
        not_finite=result.not_finite,
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
