"""Runs the plans of a bundle on the GPU with the golden samples, all stages in order, without a policy."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.memory import CudaStream, DeviceMemory
from edgeexit.backends.tensorrt.execution import Execution, OpenPlan, ScratchMemory, Shape
from edgeexit.backends.tensorrt.library import Library
from edgeexit.bundle.manifest import TEMPERATURE_INPUT, StageSpec


class _GoldenTensor(NamedTuple):
    """A tensor in the memory of the GPU."""

    address: int
    shape: Shape


class GoldenRun:
    """Runs the stages in order on the same samples; the carry stays on the GPU. A context manager.

    Only one plan is open at a time, so the run needs the scratch memory of one plan.

    Args:
        library: the library that built the plans.
        inputs: model input name -> [N, ...].
        batch: min and max batch size of the plans. The N samples run in batches of one size; the last batch is padded
            with the first samples.
        dla_core: the DLA core that runs the plans; None: the GPU.

    """

    def __init__(
        self,
        library: Library,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        batch: tuple[int, int],
        dla_core: int | None = None,
    ) -> None:
        self._library = library
        self._count = len(next(iter(inputs.values())))
        self._batches = split_into_batches(self._count, *batch)
        self._inputs = inputs
        self._dla_core = dla_core
        self._tensors: list[dict[str, _GoldenTensor]] = []
        self._resources = ExitStack()

    def __enter__(self) -> "GoldenRun":
        """Upload the samples to the GPU. Raises EngineError if CUDA fails."""
        with ExitStack() as resources:
            self._stream = CudaStream()
            resources.callback(self._stream.close)
            self._memory = DeviceMemory()
            resources.callback(self._memory.close)
            one = np.ones(1, dtype=np.float32)
            for rows in self._batches:
                arrays = {name: array[rows] for name, array in self._inputs.items()} | {TEMPERATURE_INPUT: one}
                self._tensors.append({name: self._upload(array) for name, array in arrays.items()})
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free the memory on the GPU."""
        self._resources.close()

    def run(self, stage: StageSpec, plan: bytes) -> npt.NDArray[Any]:
        """Run a stage and return its exit's logits [N, C, ...]. Its carry stays on the GPU for later stages.

        Raises EngineError for a plan that this library cannot open or run.
        """
        runtime = self._library.new_runtime(self._dla_core)
        opened = OpenPlan(self._library, runtime, stage.name, plan, graphs=False)
        memory = DeviceMemory()
        try:
            scratch = ScratchMemory(memory.allocate(opened.scratch_bytes), opened.scratch_bytes)
            execution = Execution(opened, scratch)
            try:
                logits = [self._run_batch(stage, opened, execution, tensors, memory) for tensors in self._tensors]
            finally:
                self._stream.wait_quietly()
                execution.close()
        finally:
            memory.close()
        return np.concatenate(logits)[: self._count]

    def _run_batch(
        self,
        stage: StageSpec,
        plan: OpenPlan,
        execution: Execution,
        tensors: dict[str, _GoldenTensor],
        memory: DeviceMemory,
    ) -> npt.NDArray[Any]:
        """Run one batch. `memory` is freed after the stage; the carry is in the memory of the whole run."""
        carried = {spec.name for spec in stage.carry_out}
        shapes = execution.set_shapes({name: tensors[name].shape for name in plan.inputs})
        placed = dict(tensors)
        for name, shape in shapes.items():
            # A stage that runs again, from a rebuilt plan, reuses the memory of its first run.
            if name not in tensors or tensors[name].shape != shape:
                size = math.prod(shape) * plan.outputs[name].itemsize
                placed[name] = _GoldenTensor((self._memory if name in carried else memory).allocate(size), shape)
        tensors.update({name: placed[name] for name in carried})
        execution.set_addresses({name: tensor.address for name, tensor in placed.items()})
        execution.run(self._stream)
        logits = np.empty(shapes[stage.exit.name], plan.outputs[stage.exit.name])
        self._stream.download(logits, placed[stage.exit.name].address)
        self._stream.synchronize()
        return logits

    def _upload(self, array: npt.NDArray[Any]) -> _GoldenTensor:
        array = np.ascontiguousarray(array)
        address = self._memory.allocate(array.nbytes)
        self._stream.upload(address, array)
        self._stream.synchronize()
        return _GoldenTensor(address, array.shape)


def split_into_batches(count: int, min_size: int, max_size: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each batch, all of one size in the range; the last one is padded with the first samples."""
    size = min(max(count, min_size), max_size)
    rows = np.arange(-(-count // size) * size) % count
    return list(rows.reshape(-1, size))
