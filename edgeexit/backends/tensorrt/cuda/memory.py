"""Work and memory on the GPU: a stream, and what was allocated for it, freed in reverse order whatever happens."""

import contextlib
import ctypes
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.gpu import cuda_call, cuda_runtime
from edgeexit.errors import EngineError

_SMALLEST: Final = 256
"""Bytes; an empty tensor needs an address too, and TensorRT wants its scratch memory aligned to as many."""


class DeviceMemory:
    """Memory of the GPU, and pinned memory of the host, that is freed together.

    Freeing raises nothing: it fails only where an earlier call broke the GPU's context, which took the memory with it,
    and which has been told.
    """

    def __init__(self) -> None:
        self._frees = contextlib.ExitStack()

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the GPU. Raises EngineError where it has no room."""
        address = int(cuda_call("cudaMalloc", max(size, _SMALLEST)))
        self._frees.callback(release, "cudaFree", address)
        return address

    def pin(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array that the GPU copies from and to while the host goes on; it is not filled.

        It must not be used after `close`. Raises EngineError where the host has no room.
        """
        size = math.prod(shape) * dtype.itemsize
        address = int(cuda_call("cudaMallocHost", max(size, _SMALLEST)))
        self._frees.callback(release, "cudaFreeHost", address)
        block = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)

    def close(self) -> None:
        """Free all of it, the last first."""
        self._frees.close()


class CudaStream:
    """What the GPU is asked to do, in the order of asking.

    Attributes:
        handle: CUDA's name for it.

    """

    def __init__(self) -> None:
        """Make one beside the default stream. Raises EngineError where CUDA does not start."""
        self.handle = cuda_call("cudaStreamCreateWithFlags", cuda_runtime().cudaStreamNonBlocking)

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array to the GPU; a pinned one must stay as it is until that is done."""
        kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda_call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.handle)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Fill a contiguous array from the GPU; it holds nothing until that is done."""
        kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda_call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes on the GPU between places that do not overlap."""
        kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        cuda_call("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def synchronise(self) -> None:
        """Wait until all of it is done. Raises EngineError for what failed on the way."""
        cuda_call("cudaStreamSynchronize", self.handle)

    def settle(self) -> None:
        """Wait until nothing is under way any more, done or failed, so that what it used can be freed."""
        release("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Give it back."""
        release("cudaStreamDestroy", self.handle)


class Mark:
    """A place in a stream that can be waited for, without what others ask for behind it."""

    def __init__(self) -> None:
        self._event = cuda_call("cudaEventCreateWithFlags", cuda_runtime().cudaEventDisableTiming)

    def set(self, stream: CudaStream) -> None:
        """Stand for all that has been asked for until now."""
        cuda_call("cudaEventRecord", self._event, stream.handle)

    def wait(self) -> None:
        """Wait until that is done; return at once where it was never set. Raises EngineError for what failed."""
        cuda_call("cudaEventSynchronize", self._event)

    def close(self) -> None:
        """Give it back."""
        release("cudaEventDestroy", self._event)


def release(function: str, resource: Any) -> None:
    """Give a resource back to CUDA; see `DeviceMemory` for why that raises nothing."""
    with contextlib.suppress(EngineError):
        cuda_call(function, resource)
