"""A batch of the ONNX Runtime backend: the stages read and write the tensors of the batch in reused buffers."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows, StagedBatch
from edgeexit.backends.onnxruntime.buffers import Buffers, StageTensorPlan
from edgeexit.errors import InferenceError


class OnnxRuntimeBatch:
    """A batch of samples in buffers, which return to their pool when the batch is closed."""

    def __init__(
        self,
        plan: StageTensorPlan,
        buffers: Buffers,
        count: int,
        *,
        probabilities: bool,
        return_buffers: Callable[[Buffers], None],
    ) -> None:
        self._plan = plan
        self._buffers = buffers
        self._closed = False
        self._count = count
        self._probabilities = probabilities
        self._return_buffers = return_buffers
        self._stage = -1

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4], or [B, 4 + C]. Raises InferenceError."""
        self._stage += 1
        try:
            self._buffers.run(self._stage, self._count, temperature, probabilities=self._probabilities)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise InferenceError(f"{self._failure()}: {str(error).splitlines()[0]}") from error
        if self._probabilities:
            probabilities = self._buffers.arrays[self._plan.stages[self._stage].probabilities]
            return np.concatenate([self._buffers.readout, probabilities[: self._count]], axis=1)
        return self._buffers.readout

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last."""
        return self._buffers.outputs

    def companions(self) -> dict[str, npt.NDArray[Any]]:
        """Return the companions of the stage that ran last: companion name -> [B, ...]."""
        arrays, count = self._buffers.arrays, self._count
        return {name: arrays[tensor][:count] for name, tensor in self._plan.stages[self._stage].companions}

    def select_rows(self, rows: Rows) -> None:
        """Keep only these rows; see `StagedBatch.select_rows`."""
        count = len(rows)
        moved = np.flatnonzero(rows != np.arange(count))
        for name in self._plan.stages[self._stage].live_after:
            array = self._buffers.arrays[name]
            array[moved] = array[rows[moved]]
        self._count = count

    def join(self, other: StagedBatch) -> None:
        """Append the samples of another batch and close that batch."""
        assert isinstance(other, OnnxRuntimeBatch)  # noqa: S101 - the caller guarantees it
        live = self._plan.stages[self._stage].live_after
        count = self._count + other._count  # noqa: SLF001 - of the same class
        if count > self._buffers.capacity:
            self._buffers.grow(max(count, 2 * self._buffers.capacity), self._count, live)
        for name in live:
            self._buffers.put(name, other._buffers.arrays[name][: other._count], at=self._count)  # noqa: SLF001
        self._count = count
        other.__exit__(None, None, None)

    def __enter__(self) -> "OnnxRuntimeBatch":
        """Return the batch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Return the buffers to their pool; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._return_buffers(self._buffers)

    def _failure(self) -> str:
        """Return which stage does not run, and the shapes of its inputs."""
        stage, arrays = self._plan.stages[self._stage], self._buffers.arrays
        shapes = ((name, (self._count, *arrays[name].shape[1:])) for name in stage.inputs)
        return f"{stage.name} does not run on " + ", ".join(f"'{name}' {'x'.join(map(str, s))}" for name, s in shapes)
