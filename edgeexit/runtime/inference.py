"""The result of an inference, and how it is assembled while samples exit at different stages."""

from collections.abc import Sequence
from itertools import zip_longest

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows
from edgeexit.policies.readout import COLUMNS
from edgeexit.runtime.stage_run import StageRun

_COLUMNS = len(COLUMNS)


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an inference under a policy: one row per sample, in the order of the input batch."""

    predictions: npt.NDArray[np.int64]
    """[B] predicted class: the most probable class at the exit taken, or the result of the vote for a policy in which
    several exits vote. For segmentation, the class with the highest probability averaged over the pixels."""
    exits: npt.NDArray[np.int64]
    """[B] index of the exit taken."""
    outputs: npt.NDArray[np.float32]
    """[B, C] logits of the exit taken; for segmentation, [B, C, H, W]."""
    readouts: npt.NDArray[np.float32]
    """[B, 4] readout at the exit taken."""
    scores: npt.NDArray[np.float32]
    """[B, K] score of the policy at every exit reached; NaN at later exits."""
    latency_ms: npt.NDArray[np.float64]
    """[B] time from the call to the end of the decision after which the sample exited."""
    stage_ms: tuple[float, ...]
    """Duration of each stage that ran, including the readout and excluding the decision."""
    decide_ms: tuple[float, ...]
    """Duration of the policy's decision after each of these stages."""


class EveryExitInference(msgspec.Struct, frozen=True, kw_only=True):
    """The result of running a batch to full depth: outputs and readouts of every exit."""

    outputs: dict[str, npt.NDArray[np.float32]]
    """Exit name -> logits [B, C]; for segmentation, [B, C, H, W]."""
    readouts: npt.NDArray[np.float32]
    """[B, K, 4], or [B, K, 4 + C] with the probabilities of all classes."""
    stage_ms: tuple[float, ...]
    """[K] duration of each stage."""


class InferenceBuilder:
    """Collects the results of B samples as they exit at different stages, and builds one `Inference`."""

    def __init__(self, batch: int, exits: int) -> None:
        self._predictions = np.empty(batch, dtype=np.int64)
        self._exits = np.empty(batch, dtype=np.int64)
        self._outputs: npt.NDArray[np.float32] | None = None
        self._readouts = np.empty((batch, _COLUMNS), dtype=np.float32)
        self._scores = np.full((batch, exits), np.nan, dtype=np.float32)
        self._latency_ms = np.empty(batch, dtype=np.float64)

    def add_scores(self, exit_index: int, samples: Rows, scores: npt.NDArray[np.float32]) -> None:
        """Store the scores [n] of the samples that reached an exit."""
        self._scores[samples, exit_index] = scores

    def add_exited(
        self, run: StageRun, samples: Rows, rows: Rows, *, outputs: npt.NDArray[np.float32], latency_ms: float
    ) -> None:
        """Store the results of samples that exit after a stage.

        Args:
            run: results of the stage, with the decision after it.
            samples: [n] positions of the samples in this inference.
            rows: [n] rows of the same samples in `run` and in `outputs`.
            outputs: raw outputs of the stage for all rows, [B, C] or [B, C, H, W].
            latency_ms: latency of these samples.

        """
        if self._outputs is None:
            self._outputs = np.empty((len(self._exits), *outputs.shape[1:]), dtype=np.float32)
        self._outputs[samples] = outputs[rows]
        self._readouts[samples] = run.readout[rows, :_COLUMNS]
        self._predictions[samples] = run.decision.prediction[rows]
        self._exits[samples] = run.stage
        self._latency_ms[samples] = latency_ms

    def build(self, stage_ms: Sequence[float], decide_ms: Sequence[float]) -> Inference:
        """Return the inference, once every sample has exited."""
        if self._outputs is None:
            raise AssertionError("no sample has exited")
        return Inference(
            predictions=self._predictions,
            exits=self._exits,
            outputs=self._outputs,
            readouts=self._readouts,
            scores=self._scores,
            latency_ms=self._latency_ms,
            stage_ms=tuple(stage_ms),
            decide_ms=tuple(decide_ms),
        )


def single_inference(
    runs: Sequence[StageRun], *, exits: int, outputs: npt.NDArray[np.float32], latency_ms: float
) -> Inference:
    """Return the inference of a single sample from its stage runs; `outputs` [1, ...] of the last stage are copied.

    The result equals that of `InferenceBuilder`, with fewer and simpler numpy calls. A stage evicts Python's
    code from the inner caches of the processor, so a numpy call right after it takes ten times as long as in a loop.
    """
    last = runs[-1]
    exit_taken = np.empty(1, dtype=np.int64)
    exit_taken[0] = last.stage
    latency = np.empty(1, dtype=np.float64)
    latency[0] = latency_ms
    scores = np.empty((1, exits), dtype=np.float32)
    scores.fill(np.nan)
    for run in runs:
        scores[0, run.stage] = run.decision.score[0]
    return Inference(
        predictions=last.decision.prediction.astype(np.int64),
        exits=exit_taken,
        outputs=outputs.copy(),
        readouts=last.readout[:, :_COLUMNS].copy(),
        scores=scores,
        latency_ms=latency,
        stage_ms=tuple([run.stage_ms for run in runs]),
        decide_ms=tuple([run.decide_ms for run in runs]),
    )


def concatenate(parts: Sequence[Inference]) -> Inference:
    """Return the inferences of several batches as one; the durations of each stage are summed."""
    return Inference(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("predictions", "exits", "outputs", "readouts", "scores", "latency_ms")
        },
        stage_ms=_sums([part.stage_ms for part in parts]),
        decide_ms=_sums([part.decide_ms for part in parts]),
    )


def continuing_rows(exit_mask: npt.NDArray[np.bool_]) -> Rows:
    """Return the rows of the samples that continue, in the order that `StagedBatch.select_rows` requires.

    Args:
        exit_mask: [B] whether the sample exits.

    A continuing row stays in place if it can. The last continuing rows replace those of samples that exit.
    """
    continuing = np.flatnonzero(~exit_mask)
    rows = np.arange(len(continuing))
    rows[exit_mask[: len(continuing)]] = continuing[continuing >= len(continuing)]
    return rows


def _sums(durations: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(map(sum, zip_longest(*durations, fillvalue=0.0)))
