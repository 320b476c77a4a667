"""What an inference gives, and how it comes together while its samples leave one after the other."""

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
    """The answers of a batch, in the order of its samples."""

    predictions: npt.NDArray[np.int64]
    """[B] class that the policy answers with: the most probable one at the exit taken, but where a policy lets
    several exits vote. To segment, the one that is most probable on average over the pixels."""
    exits: npt.NDArray[np.int64]
    """[B] index of the exit taken."""
    outputs: npt.NDArray[np.float32]
    """[B, C] raw outputs (logits) of the exit taken; to segment, [B, C, H, W]."""
    readouts: npt.NDArray[np.float32]
    """[B, 4] readout at the exit taken."""
    scores: npt.NDArray[np.float32]
    """[B, K] score at every exit reached, NaN beyond."""
    latency_ms: npt.NDArray[np.float64]
    """[B] from the call to the decision that let the sample leave."""
    stage_ms: tuple[float, ...]
    """Duration of each stage that ran, readout included, decision not."""
    decide_ms: tuple[float, ...]
    """Duration of the policy's decision after each of these stages."""


class EveryExit(msgspec.Struct, frozen=True, kw_only=True):
    """Every exit's raw outputs and readouts of a batch."""

    outputs: dict[str, npt.NDArray[np.float32]]
    """Exit name -> [B, C]; to segment, [B, C, H, W]."""
    readouts: npt.NDArray[np.float32]
    """[B, K, 4], or [B, K, 4 + C] with the probabilities."""
    stage_ms: tuple[float, ...]
    """[K] duration of each stage."""


class InferenceBuilder:
    """The answers of a batch of B samples, filled in as they leave."""

    def __init__(self, batch: int, exits: int) -> None:
        self._predictions = np.empty(batch, dtype=np.int64)
        self._exits = np.empty(batch, dtype=np.int64)
        self._outputs: npt.NDArray[np.float32] | None = None
        self._readouts = np.empty((batch, _COLUMNS), dtype=np.float32)
        self._scores = np.full((batch, exits), np.nan, dtype=np.float32)
        self._latency_ms = np.empty(batch, dtype=np.float64)

    def score(self, exit_index: int, samples: Rows, scores: npt.NDArray[np.float32]) -> None:
        """Take the scores [n] of samples that reached an exit."""
        self._scores[samples, exit_index] = scores

    def leave(
        self, run: StageRun, samples: Rows, rows: Rows, *, outputs: npt.NDArray[np.float32], latency_ms: float
    ) -> None:
        """Let samples leave after a stage that made `outputs`; they stand at `rows` in what it and the policy say."""
        if self._outputs is None:
            self._outputs = np.empty((len(self._exits), *outputs.shape[1:]), dtype=np.float32)
        self._outputs[samples] = outputs[rows]
        self._readouts[samples] = run.readout[rows, :_COLUMNS]
        self._predictions[samples] = run.decision.prediction[rows]
        self._exits[samples] = run.stage
        self._latency_ms[samples] = latency_ms

    def inference(self, stage_ms: Sequence[float], decide_ms: Sequence[float]) -> Inference:
        """Return the whole, when every sample has left."""
        if self._outputs is None:
            raise AssertionError("no sample has left")
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


def of_one(runs: Sequence[StageRun], *, exits: int, outputs: npt.NDArray[np.float32], latency_ms: float) -> Inference:
    """Return the answers of a batch of one after the stages that it ran; the last of them made `outputs`, copied here.

    What `InferenceBuilder` gives, in fewer and plainer calls of numpy: after a stage has run, whatever else is called is out of
    the processor's nearest caches, and costs ten times what it does in a loop of its own.
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
    """Return the inferences of several batches as that of one; durations add up stage by stage."""
    return Inference(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("predictions", "exits", "outputs", "readouts", "scores", "latency_ms")
        },
        stage_ms=_sums([part.stage_ms for part in parts]),
        decide_ms=_sums([part.decide_ms for part in parts]),
    )


def survivors(exit_mask: npt.NDArray[np.bool_]) -> Rows:
    """Return who goes on, as `StagedBatch.select_rows` wants it: in place, and the last of them in the gaps of the leavers."""
    stays = np.flatnonzero(~exit_mask)
    rows = np.arange(len(stays))
    rows[exit_mask[: len(stays)]] = stays[stays >= len(stays)]
    return rows


def _sums(durations: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(map(sum, zip_longest(*durations, fillvalue=0.0)))
