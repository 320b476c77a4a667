"""Runs the plans of a bundle on the GPU with the golden samples, stage by stage, every stage forced."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.engines.gpu import cuda_call, cuda_runtime
from edgeexit.engines.library import Library
from edgeexit.errors import EngineError
from edgeexit.manifest import TEMPERATURE_INPUT, StageSpec

_SMALLEST: Final = 256  # bytes; an empty tensor needs an address too


class _DeviceArray(NamedTuple):
    """A tensor in the GPU's memory."""

    address: int
    shape: tuple[int, ...]


class GoldenRun:
    """Runs one stage after the other on the same samples; what a stage carries stays on the GPU. A context manager.

    One engine is open at a time, so that the scratch memory of all is that of the largest.

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
        self._tensors: list[dict[str, _DeviceArray]] = []
        self._stream: Any = None

    def __enter__(self) -> "GoldenRun":
        """Bring the samples to the GPU. Raises EngineError where CUDA does not."""
        self._stream = cuda_call("cudaStreamCreate")
        one = np.ones(1, dtype=np.float32)
        try:
            for rows in self._batches:
                self._tensors.append({})  # first, so that a failure half-way frees what there is
                for name, array in {**self._inputs, TEMPERATURE_INPUT: one}.items():
                    self._tensors[-1][name] = self._upload(array if name == TEMPERATURE_INPUT else array[rows])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free the GPU's memory."""
        for tensors in self._tensors:
            for tensor in tensors.values():
                cuda_call("cudaFree", tensor.address)
        self._tensors.clear()
        cuda_call("cudaStreamDestroy", self._stream)

    def run(self, stage: StageSpec, plan: bytes) -> npt.NDArray[Any]:
        """Run a stage and return its exit's logits [N, C, ...]; the carries are kept for the stages after it.

        Raises EngineError for a plan that this library does not open or run.
        """
        self._library.journal.clear()
        runtime = self._library.api.Runtime(self._library.log)
        if self._dla_core is not None:
            runtime.DLA_core = self._dla_core
        engine = runtime.deserialize_cuda_engine(plan)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise EngineError(f"{stage.name}: the plan does not open: {self._library.journal.why()}")
        answers = [self._run_batch(stage, engine, context, tensors) for tensors in self._tensors]
        return np.concatenate(answers)[: self._count]

    def _run_batch(
        self, stage: StageSpec, engine: Any, context: Any, tensors: dict[str, _DeviceArray]
    ) -> npt.NDArray[Any]:
        api = self._library.api
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        outputs = [name for name in names if engine.get_tensor_mode(name) == api.TensorIOMode.OUTPUT]
        for name in names:
            if name not in outputs:
                self._require(context.set_input_shape(name, tensors[name].shape), stage, name)
        kept = {stage.exit.name, *(spec.name for spec in stage.carry_out)}
        scratch: list[int] = []
        try:
            for name in outputs:
                shape = tuple(context.get_tensor_shape(name))
                if min(shape, default=0) < 0:
                    raise EngineError(f"{stage.name}: the size of '{name}' depends on the data")
                dtype = np.dtype(api.nptype(engine.get_tensor_dtype(name)))
                address = _allocate(int(np.prod(shape)) * dtype.itemsize)
                if name in kept:
                    tensors[name] = self._replace(tensors.get(name), address, shape)
                else:
                    scratch.append(address)
                self._require(context.set_tensor_address(name, address), stage, name)
            for name in names:
                if name not in outputs:
                    self._require(context.set_tensor_address(name, tensors[name].address), stage, name)
            self._require(context.execute_async_v3(int(self._stream)), stage, stage.exit.name)
            dtype = np.dtype(api.nptype(engine.get_tensor_dtype(stage.exit.name)))
            return self._download(tensors[stage.exit.name], dtype)  # which waits for the stage to end
        finally:
            for address in scratch:
                cuda_call("cudaFree", address)

    def _replace(self, old: _DeviceArray | None, address: int, shape: tuple[int, ...]) -> _DeviceArray:
        if old is not None:  # the stage runs again, from a plan that was built anew
            cuda_call("cudaFree", old.address)
        return _DeviceArray(address, shape)

    def _require(self, done: bool, stage: StageSpec, tensor: str) -> None:  # noqa: FBT001 - TensorRT's answer
        if not done:
            raise EngineError(f"{stage.name} does not run at '{tensor}': {self._library.journal.why()}")

    def _upload(self, array: npt.NDArray[Any]) -> _DeviceArray:
        array = np.ascontiguousarray(array)
        address = _allocate(array.nbytes)
        to_device = cuda_runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda_call("cudaMemcpy", address, array.ctypes.data, array.nbytes, to_device)
        return _DeviceArray(address, array.shape)

    def _download(self, tensor: _DeviceArray, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        array = np.empty(tensor.shape, dtype)
        to_host = cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda_call("cudaMemcpyAsync", array.ctypes.data, tensor.address, array.nbytes, to_host, self._stream)
        cuda_call("cudaStreamSynchronize", self._stream)
        return array


def batches(count: int, least: int, most: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each batch when `count` samples run in batches of one size between `least` and `most`."""
    size = min(max(count, least), most)
    rows = np.arange(-(-count // size) * size) % count
    return list(rows.reshape(-1, size))


def _allocate(count: int) -> int:
    return int(cuda_call("cudaMalloc", max(count, _SMALLEST)))
