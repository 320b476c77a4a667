"""A batch on the GPU: what it carries stays there, and what comes back is a few numbers a sample."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows, StagedBatch
from edgeexit.backends.tensorrt.batch_context import BatchContext, Staged, padded
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX
from edgeexit.errors import EngineError, InferenceError

_GiveBack = Callable[[BatchContext, bool], None]


class TensorRtBatch:
    """Samples on their way through the stages, in a lane that goes back to its pool at the end.

    Every tensor that a later stage reads has as many rows of this batch as the next stage runs: samples, and behind
    them some that are there a second time or have left.

    Args:
        staged: what all batches share.
        lane: memory and executions for this one.
        inputs: model input name -> [B, ...].
        probabilities: whether readouts come with those of all classes.
        give_back: takes the lane, and whether something failed in it.

    """

    def __init__(
        self,
        staged: Staged,
        lane: BatchContext,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        probabilities: bool,
        give_back: _GiveBack,
    ) -> None:
        """Bring the samples to the GPU. Raises InferenceError where CUDA refuses."""
        self._staged = staged
        self._lane: BatchContext | None = lane
        self._probabilities = probabilities
        self._give_back = give_back
        self._failed = False
        self._stage = -1
        self._count = len(next(iter(inputs.values())))
        self._rows: dict[str, tuple[int, ...]] = {name: array.shape[1:] for name, array in inputs.items()}
        try:
            with self._told("the batch does not reach the GPU"):
                lane.mark.wait()  # until what was brought up before has left the host's memory
                with staged.lock:
                    for name, array in inputs.items():
                        lane.put(name, array, padded(self._count, staged.build_config.batch))
                    lane.mark.set(staged.stream)
        except BaseException:
            self._failed = True
            self.__exit__(None, None, None)
            raise

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4], or [B, 4 + C]. Raises InferenceError."""
        self._stage += 1
        spec, lane, count = self._staged.manifest.stages[self._stage], self._open, self._count
        predictions = lane.predictions[self._stage]
        readout, probabilities = predictions.readout[:count], predictions.probabilities[:count]
        try:
            with self._staged.lock:
                size = padded(count, self._staged.build_config.batch)
                shapes = lane.run(self._stage, size, self._rows, temperature)
                lane.fetch(spec.exit.name + READOUT_SUFFIX, readout)
                if self._probabilities:
                    lane.fetch(spec.exit.name + PROBABILITIES_SUFFIX, probabilities)
                lane.mark.set(self._staged.stream)
            lane.mark.wait()
        except EngineError as error:
            shapes = {name: (count, *self._rows[name]) for name in (*spec.inputs, *spec.carry_in)}
            given = ", ".join(f"'{name}' {'x'.join(map(str, shape))}" for name, shape in shapes.items())
            raise self._failure(f"{spec.name} does not run on {given}", error) from error
        for name, shape in shapes.items():
            self._rows[name] = shape[1:]
        if self._probabilities:
            return np.concatenate([readout, probabilities], axis=1, dtype=np.float32)
        return readout.astype(np.float32, copy=False)

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last. Raises InferenceError."""
        spec, lane = self._staged.manifest.stages[self._stage], self._open
        found = np.empty((self._count, *self._rows[spec.exit.name]), lane.dtype(spec.exit.name))
        with self._told(f"{spec.name}: '{spec.exit.name}' does not come back"):
            with self._staged.lock:
                lane.fetch(spec.exit.name, found)
                lane.mark.set(self._staged.stream)
            lane.mark.wait()
        return found.astype(np.float32, copy=False)

    def select_rows(self, rows: Rows) -> None:
        """Go on with these rows alone, in this order. Raises InferenceError."""
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        # Neighbours that stay neighbours are moved together.
        breaks = np.flatnonzero((np.diff(moved) != 1) | (np.diff(rows[moved]) != 1)) + 1
        stretches = [(int(part[0]), int(rows[part[0]]), len(part)) for part in np.split(moved, breaks) if len(part)]
        with self._told("samples do not move on the GPU"), self._staged.lock:
            for spec in self._staged.manifest.live_after(self._stage):
                for target, source, count in stretches:
                    self._open.move(spec.name, target, source, count, self._rows[spec.name])
        self._count = len(rows)

    def join(self, other: StagedBatch) -> None:
        """Take in the samples of another batch, behind its own, and close that one. Raises InferenceError."""
        assert isinstance(other, TensorRtBatch)  # noqa: S101 - the caller's promise
        mine, theirs = self._count, other._count  # noqa: SLF001 - one of its own
        count = mine + theirs
        if count > self._staged.build_config.batch[-1]:
            raise InferenceError(
                f"{mine} and {theirs} samples are more than the {self._staged.build_config.batch[-1]} of a batch"
            )
        lane = self._open
        with self._told("samples do not move on the GPU"), self._staged.lock:
            for spec in self._staged.manifest.live_after(self._stage):
                shape = self._rows[spec.name]
                lane.move(spec.name, mine, 0, theirs, shape, of=other._open)  # noqa: SLF001
                filled, size = count, padded(count, self._staged.build_config.batch)
                while filled < size:
                    more = min(filled, size - filled)
                    lane.move(spec.name, filled, 0, more, shape)
                    filled += more
        self._count = count
        other.__exit__(None, None, None)

    def __enter__(self) -> "TensorRtBatch":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the lane back; a second time does nothing."""
        lane, self._lane = self._lane, None
        if lane is not None:
            self._give_back(lane, self._failed)

    @property
    def _open(self) -> BatchContext:
        if self._lane is None:
            raise InferenceError("the batch is closed")
        return self._lane

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: EngineError) -> InferenceError:
        """Return what to raise, and remember that the lane may be in any state."""
        self._failed = True
        return InferenceError(f"{what}: {error}")
