"""Runs the plans of a bundle on the GPU with the golden samples, stage by stage, every stage forced."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.memory import CudaStream, DeviceMemory
from edgeexit.backends.tensorrt.execution import Execution, OpenPlan, Scratch, Shape
from edgeexit.backends.tensorrt.library import Library
from edgeexit.bundle.manifest import TEMPERATURE_INPUT, StageSpec


class _Tensor(NamedTuple):
    """A tensor in the GPU's memory."""

    address: int
    shape: Shape


class GoldenRun:
    """Runs one stage after the other on the same samples; what a stage carries stays on the GPU. A context manager.

    One plan is open at a time, so that the scratch memory of all is that of the largest.

    Args:
        library: what built the plans.
        inputs: model input name -> [N, ...].
        batch: least and most samples that a plan takes; N samples run in batches of as many as it takes, the last one
            filled up with samples from the start.
        dla_core: where plans run, unless on the GPU.

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
        self._batches = batches(self._count, *batch)
        self._inputs = inputs
        self._dla_core = dla_core
        self._tensors: list[dict[str, _Tensor]] = []
        self._resources = ExitStack()

    def __enter__(self) -> "GoldenRun":
        """Bring the samples to the GPU. Raises EngineError where CUDA does not."""
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
        """Free the GPU's memory."""
        self._resources.close()

    def run(self, stage: StageSpec, plan: bytes) -> npt.NDArray[Any]:
        """Run a stage and return its exit's logits [N, C, ...]; the carries are kept for the stages after it.

        Raises EngineError for a plan that this library does not open or run.
        """
        runtime = self._library.new_runtime(self._dla_core)
        opened = OpenPlan(self._library, runtime, stage.name, plan, graphs=False)
        memory = DeviceMemory()
        try:
            scratch = Scratch(memory.allocate(opened.scratch_bytes), opened.scratch_bytes)
            execution = Execution(opened, scratch)
            try:
                predictions = [self._run_batch(stage, opened, execution, tensors, memory) for tensors in self._tensors]
            finally:
                self._stream.settle()
                execution.close()
        finally:
            memory.close()
        return np.concatenate(predictions)[: self._count]

    def _run_batch(
        self,
        stage: StageSpec,
        plan: OpenPlan,
        execution: Execution,
        tensors: dict[str, _Tensor],
        memory: DeviceMemory,
    ) -> npt.NDArray[Any]:
        """Run a batch; `memory` goes with the stage, and what is carried stays in the run's own."""
        carried = {spec.name for spec in stage.carry_out}
        shapes = execution.set_shapes({name: tensors[name].shape for name in plan.inputs})
        placed = dict(tensors)
        for name, shape in shapes.items():
            # A stage that runs again, from a plan that was built anew, writes where it wrote before.
            if name not in tensors or tensors[name].shape != shape:
                size = math.prod(shape) * plan.outputs[name].itemsize
                placed[name] = _Tensor((self._memory if name in carried else memory).allocate(size), shape)
        tensors.update({name: placed[name] for name in carried})
        execution.set_addresses({name: tensor.address for name, tensor in placed.items()})
        execution.run(self._stream)
        found = np.empty(shapes[stage.exit.name], plan.outputs[stage.exit.name])
        self._stream.download(found, placed[stage.exit.name].address)
        self._stream.synchronise()
        return found

    def _upload(self, array: npt.NDArray[Any]) -> _Tensor:
        array = np.ascontiguousarray(array)
        address = self._memory.allocate(array.nbytes)
        self._stream.upload(address, array)
        self._stream.synchronise()
        return _Tensor(address, array.shape)


def batches(count: int, least: int, most: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each batch when `count` samples run in batches of one size between `least` and `most`."""
    size = min(max(count, least), most)
    rows = np.arange(-(-count // size) * size) % count
    return list(rows.reshape(-1, size))
