"""A batch of the TensorRT backend: the carry stays on the GPU, only readouts come back to the host."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows, StagedBatch
from edgeexit.backends.tensorrt.batch_context import BatchContext, SharedResources, padded_size
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TensorSpec
from edgeexit.errors import EngineError, InferenceError

_ReturnContext = Callable[[BatchContext, bool], None]


class TensorRtBatch:
    """A batch of samples in a batch context, which returns to its pool when the batch is closed.

    Every live tensor has as many rows as the next stage runs: first those of the samples, then padding rows (copies, or
    samples that have exited).

    Args:
        shared: the resources that all batches share.
        context: memory and executions of this batch.
        inputs: model input name -> [B, ...].
        probabilities: whether readouts include the probabilities of all classes.
        return_context: called with the context and whether an operation on it failed.

    """

    def __init__(
        self,
        shared: SharedResources,
        context: BatchContext,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        probabilities: bool,
        return_context: _ReturnContext,
    ) -> None:
        """Upload the samples to the GPU. Raises InferenceError if CUDA fails."""
        self._shared = shared
        self._context: BatchContext | None = context
        self._probabilities = probabilities
        self._return_context = return_context
        self._failed = False
        self._stage = -1
        self._count = len(next(iter(inputs.values())))
        self._rows: dict[str, tuple[int, ...]] = {name: array.shape[1:] for name, array in inputs.items()}
        try:
            with self._as_inference_error("the batch cannot be uploaded to the GPU"):
                context.done.wait()  # until the previous upload has read the pinned memory
                with shared.lock:
                    for name, array in inputs.items():
                        context.put(name, array, padded_size(self._count, shared.build_config.batch))
                    context.done.record(shared.stream)
        except BaseException:
            self._failed = True
            self.__exit__(None, None, None)
            raise

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4], or [B, 4 + C]. Raises InferenceError."""
        self._stage += 1
        spec, context, count = self._shared.manifest.stages[self._stage], self._open, self._count
        results = context.results[self._stage]
        readout, probabilities = results.readout[:count], results.probabilities[:count]
        try:
            with self._shared.lock:
                size = padded_size(count, self._shared.build_config.batch)
                shapes = context.run(self._stage, size, self._rows, temperature)
                context.fetch(spec.exit.name + READOUT_SUFFIX, readout)
                if self._probabilities:
                    context.fetch(spec.exit.name + PROBABILITIES_SUFFIX, probabilities)
                context.done.record(self._shared.stream)
            context.done.wait()
        except EngineError as error:
            shapes = {name: (count, *self._rows[name]) for name in (*spec.inputs, *spec.carry_in)}
            sizes = ", ".join(f"'{name}' {'x'.join(map(str, shape))}" for name, shape in shapes.items())
            raise self._failure(f"{spec.name} does not run on {sizes}", error) from error
        for name, shape in shapes.items():
            self._rows[name] = shape[1:]
        if self._probabilities:
            return np.concatenate([readout, probabilities], axis=1, dtype=np.float32)
        return readout.astype(np.float32, copy=False)

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last. Raises InferenceError."""
        return self._download(self._shared.manifest.stages[self._stage].exit)

    def companions(self) -> dict[str, npt.NDArray[Any]]:
        """Return the companions of the stage that ran last: companion name -> [B, ...]. Raises InferenceError."""
        companions = self._shared.manifest.stages[self._stage].companions
        return {name: self._download(spec) for name, spec in companions.items()}

    def select_rows(self, rows: Rows) -> None:
        """Keep only these rows; see `StagedBatch.select_rows`. Raises InferenceError."""
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        # Adjacent rows that stay adjacent are moved in one copy.
        breaks = np.flatnonzero((np.diff(moved) != 1) | (np.diff(rows[moved]) != 1)) + 1
        blocks = [(int(part[0]), int(rows[part[0]]), len(part)) for part in np.split(moved, breaks) if len(part)]
        with self._as_inference_error("rows cannot be copied on the GPU"), self._shared.lock:
            for spec in self._shared.manifest.live_after(self._stage):
                for target, source, count in blocks:
                    self._open.move(spec.name, target, source, count, self._rows[spec.name])
        self._count = len(rows)

    def join(self, other: StagedBatch) -> None:
        """Append the samples of another batch and close that batch. Raises InferenceError."""
        assert isinstance(other, TensorRtBatch)  # noqa: S101 - the caller guarantees it
        mine, theirs = self._count, other._count  # noqa: SLF001 - of the same class
        count = mine + theirs
        if count > self._shared.build_config.batch[-1]:
            raise InferenceError(
                f"{mine} and {theirs} samples exceed the max batch size {self._shared.build_config.batch[-1]}; join "
                "smaller batches"
            )
        context = self._open
        with self._as_inference_error("rows cannot be copied on the GPU"), self._shared.lock:
            for spec in self._shared.manifest.live_after(self._stage):
                shape = self._rows[spec.name]
                context.move(spec.name, mine, 0, theirs, shape, of=other._open)  # noqa: SLF001
                filled, size = count, padded_size(count, self._shared.build_config.batch)
                while filled < size:
                    more = min(filled, size - filled)
                    context.move(spec.name, filled, 0, more, shape)
                    filled += more
        self._count = count
        other.__exit__(None, None, None)

    def __enter__(self) -> "TensorRtBatch":
        """Return the batch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Return the context to its pool; a second call does nothing."""
        context, self._context = self._context, None
        if context is not None:
            self._return_context(context, self._failed)

    def _download(self, spec: TensorSpec) -> npt.NDArray[Any]:
        """Return an output of the stage that ran last, [B, ...] in the dtype of its specification."""
        context, stage = self._open, self._shared.manifest.stages[self._stage]
        array = np.empty((self._count, *self._rows[spec.name]), context.dtype(spec.name))
        with self._as_inference_error(f"{stage.name}: '{spec.name}' cannot be downloaded from the GPU"):
            with self._shared.lock:
                context.fetch(spec.name, array)
                context.done.record(self._shared.stream)
            context.done.wait()
        return array.astype(spec.dtype, copy=False)

    @property
    def _open(self) -> BatchContext:
        if self._context is None:
            raise InferenceError("the batch is closed")
        return self._context

    @contextlib.contextmanager
    def _as_inference_error(self, problem: str) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            raise self._failure(problem, error) from error

    def _failure(self, problem: str, error: EngineError) -> InferenceError:
        """Return the error to raise, and mark the context as unusable: its state is unknown."""
        self._failed = True
        return InferenceError(f"{problem}: {error}")
