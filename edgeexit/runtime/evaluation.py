"""Record every exit of a data set, and measure what policies make of it on this machine."""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Dataset, counts_of
from edgeexit.latency import LatencySummary, summarise
from edgeexit.policies import AnyPolicy, exit_rates
from edgeexit.runtime.runner import Runner

_RECORDING_BATCH = 64


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Every exit of every sample of a data set."""

    readouts: npt.NDArray[np.float32]
    """[N, K, 4], or [N, K, 4 + C] with the probabilities."""
    outputs: dict[str, npt.NDArray[np.float32]]
    """Exit name -> raw outputs [N, C]; to segment, [N, C, H, W]."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy makes of a data set, sample by sample (batch 1); to segment, every pixel is an answer."""

    samples: int
    accuracy: float | None
    """Share of right answers; null without labels."""
    agreement: float
    """Share of answers that are the final exit's."""
    exit_rates: tuple[float, ...]
    """[K] share of samples that leave at each exit."""
    latency: LatencySummary


def record(
    runner: Runner,
    dataset: Dataset,
    *,
    probabilities: bool = False,
    on_samples: Callable[[int], None] = lambda _: None,
) -> Recording:
    """Run a data set to full depth; `on_samples` is told how many more are done."""
    passes = []
    for batch in dataset.batches(_RECORDING_BATCH):
        every = runner.infer_every_exit(batch, probabilities=probabilities)
        passes.append(every)
        on_samples(len(every.readouts))
    return Recording(
        readouts=np.concatenate([every.readouts for every in passes]),
        outputs={name: np.concatenate([every.outputs[name] for every in passes]) for name in passes[0].outputs},
    )


def full_depth(policy: AnyPolicy) -> AnyPolicy:
    """Return the policy that never leaves early: the whole model, always."""
    return msgspec.structs.replace(policy, thresholds=(None,) * (policy.exits - 1))


def evaluate(
    runner: Runner,
    dataset: Dataset,
    policies: Mapping[str, AnyPolicy],
    *,
    on_samples: Callable[[int], None] = lambda _: None,
) -> dict[str, Evaluation]:
    """Answer every sample alone under each policy, and to full depth to compare with.

    The policies take turns on each sample (A B A B), so that they share the machine's slow and fast moments.
    """
    names = list(policies)
    samples = len(dataset)
    exits = {name: np.empty(samples, dtype=np.int64) for name in names}
    latency = {name: np.empty(samples, dtype=np.float64) for name in names}
    agreed = dict.fromkeys(names, 0.0)
    right = dict.fromkeys(names, 0)
    counted = 0
    for index, sample in enumerate(dataset.batches(1)):
        final = _answers(list(runner.infer_every_exit(sample).outputs.values())[-1])
        label = None if dataset.labels is None else dataset.labels[index : index + 1]
        counts = None if label is None else counts_of(label)
        counted += 0 if counts is None else int(counts.sum())
        for name in names:
            result = runner.infer(sample, policy=policies[name])
            answers = _answers(result.outputs)
            agreed[name] += float((answers == final).mean())
            right[name] += 0 if counts is None else int(((answers == label) & counts).sum())
            exits[name][index] = result.exits[0]
            latency[name][index] = result.latency_ms[0]
        on_samples(1)
    return {
        name: Evaluation(
            samples=samples,
            accuracy=right[name] / counted if counted else None,
            agreement=agreed[name] / samples,
            exit_rates=exit_rates(exits[name], policies[name].exits),
            latency=summarise(latency[name]),
        )
        for name in names
    }


def _answers(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the class [B] of outputs [B, C], or [B, H, W] of maps [B, C, H, W]."""
    classes: npt.NDArray[np.int64] = outputs.argmax(axis=1)
    return classes
