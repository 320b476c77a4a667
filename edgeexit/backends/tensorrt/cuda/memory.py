"""CUDA streams, events, device memory and pinned host memory."""

import contextlib
import ctypes
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.gpu import cuda_call, cuda_runtime
from edgeexit.errors import EngineError

_SMALLEST: Final = 256
"""Min size of an allocation in bytes, because an empty tensor and empty scratch memory need an address too."""


class DeviceMemory:
    """Memory on the GPU and pinned memory on the host that are freed together, in reverse order.

    Freeing raises no error. It fails only if an earlier call broke the CUDA context. That call raised an error, and the
    memory is freed with the context.
    """

    def __init__(self) -> None:
        self._frees = contextlib.ExitStack()

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU and return the address. Raises EngineError if memory is short."""
        address = int(cuda_call("cudaMalloc", max(size, _SMALLEST)))
        self._frees.callback(release, "cudaFree", address)
        return address

    def pin(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an uninitialized array in pinned host memory, for asynchronous copies.

        It must not be used after `close`. Raises EngineError if memory is short.
        """
        size = math.prod(shape) * dtype.itemsize
        address = int(cuda_call("cudaMallocHost", max(size, _SMALLEST)))
        self._frees.callback(release, "cudaFreeHost", address)
        block = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)

    def close(self) -> None:
        """Free all memory, the last allocation first."""
        self._frees.close()


class CudaStream:
    """A CUDA stream: the GPU executes its operations in the order in which they were enqueued.

    Attributes:
        handle: the `cudaStream_t`.

    """

    def __init__(self) -> None:
        """Create a non-blocking stream. Raises EngineError if CUDA does not start."""
        self.handle = cuda_call("cudaStreamCreateWithFlags", cuda_runtime().cudaStreamNonBlocking)

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array to the GPU. A pinned array must not change until the copy is done."""
        kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda_call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.handle)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Fill a contiguous array from the GPU. It is valid once the copy is done."""
        kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda_call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes on the GPU; source and target must not overlap."""
        kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        cuda_call("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def synchronize(self) -> None:
        """Wait until all operations are done. Raises EngineError if one failed."""
        cuda_call("cudaStreamSynchronize", self.handle)

    def wait_quietly(self) -> None:
        """Wait until all operations are done or failed, so that their memory can be freed; raises nothing."""
        release("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Destroy the stream."""
        release("cudaStreamDestroy", self.handle)


class StreamEvent:
    """A CUDA event: a position in a stream that the host can wait for."""

    def __init__(self) -> None:
        self._event = cuda_call("cudaEventCreateWithFlags", cuda_runtime().cudaEventDisableTiming)

    def record(self, stream: CudaStream) -> None:
        """Record the event behind all operations that are in the stream now."""
        cuda_call("cudaEventRecord", self._event, stream.handle)

    def wait(self) -> None:
        """Wait until the recorded operations are done, if there are any. Raises EngineError if one failed."""
        cuda_call("cudaEventSynchronize", self._event)

    def close(self) -> None:
        """Destroy the event."""
        release("cudaEventDestroy", self._event)


def release(function: str, resource: Any) -> None:
    """Release a CUDA resource. `DeviceMemory` explains why this raises no error."""
    with contextlib.suppress(EngineError):
        cuda_call(function, resource)
