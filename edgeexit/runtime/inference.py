"""The result of an inference, and how it is assembled while samples exit at different stages."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows
from edgeexit.errors import InferenceError
from edgeexit.policies.readout import COLUMNS
from edgeexit.runtime.stage_run import StageRun

_COLUMNS = len(COLUMNS)
_Companions = Mapping[str, npt.NDArray[Any]]
"""Companion name -> [B, ...]."""


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
    companions: dict[str, npt.NDArray[Any]] = {}
    """Companion name -> [B, ...], in each row the companion of the exit taken. Empty if the bundle has none."""


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
        self._companions: dict[str, npt.NDArray[Any]] = {}

    def add_scores(self, exit_index: int, samples: Rows, scores: npt.NDArray[np.float32]) -> None:
        """Store the scores [n] of the samples that reached an exit."""
        self._scores[samples, exit_index] = scores

    def add_exited(
        self,
        run: StageRun,
        samples: Rows,
        rows: Rows,
        *,
        outputs: npt.NDArray[np.float32],
        latency_ms: float,
        companions: _Companions,
    ) -> None:
        """Store the results of samples that exit after a stage.

        Args:
            run: results of the stage, with the decision after it.
            samples: [n] positions of the samples in this inference.
            rows: [n] rows of the same samples in `run`, in `outputs` and in `companions`.
            outputs: raw outputs of the stage for all rows, [B, C] or [B, C, H, W].
            latency_ms: latency of these samples.
            companions: companions of the stage's exit for all rows, companion name -> [B, ...].

        Raises InferenceError if a companion has another shape than at an exit that other samples took.

        """
        if self._outputs is None:
            self._outputs = np.empty((len(self._exits), *outputs.shape[1:]), dtype=np.float32)
        self._outputs[samples] = outputs[rows]
        self._readouts[samples] = run.readout[rows, :_COLUMNS]
        self._predictions[samples] = run.decision.prediction[rows]
        self._exits[samples] = run.stage
        self._latency_ms[samples] = latency_ms
        for name, array in companions.items():
            if name not in self._companions:
                self._companions[name] = np.empty((len(self._exits), *array.shape[1:]), dtype=array.dtype)
            _check_same_shape(name, [self._companions[name], array])
            self._companions[name][samples] = array[rows]

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
            companions=self._companions,
        )


def concatenate(parts: Sequence[Inference]) -> Inference:
    """Return the inferences of several batches as one; the durations of each stage are summed.

    Raises InferenceError if a companion has different shapes in the batches.
    """
    companions = {name: [part.companions[name] for part in parts] for name in parts[0].companions}
    for name, arrays in companions.items():
        _check_same_shape(name, arrays)
    return Inference(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("predictions", "exits", "outputs", "readouts", "scores", "latency_ms")
        },
        stage_ms=_sums([part.stage_ms for part in parts]),
        decide_ms=_sums([part.decide_ms for part in parts]),
        companions={name: np.concatenate(arrays) for name, arrays in companions.items()},
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


def _check_same_shape(name: str, arrays: Sequence[npt.NDArray[Any]]) -> None:
    """Raise InferenceError if samples of a companion differ in shape, which only data-dependent sizes do."""
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        texts = " and ".join("x".join(map(str, shape)) or "a scalar" for shape in shapes)
        raise InferenceError(
            f"companion '{name}' has samples of {texts}; run the samples one by one, or give it one size in the model"
        )


def _sums(durations: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(map(sum, zip_longest(*durations, fillvalue=0.0)))
