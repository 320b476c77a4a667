"""Runs plans on the GPU: opens them, sets shapes and addresses, and enqueues them, as CUDA graphs if possible.

TensorRT's rules for CUDA graphs (its documentation, "CUDA Graphs"): a graph contains the shapes, the addresses and the
state of the execution context that it was captured from. The context must not change while the graph is used, so every
graph has its own context. After a change of shapes, a plan is enqueued once before it is captured. Contexts that run
one after the other in the same stream may share their scratch memory.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from edgeexit.backends.tensorrt.cuda.gpu import cuda_call, cuda_runtime
from edgeexit.backends.tensorrt.cuda.memory import CudaStream, release
from edgeexit.backends.tensorrt.library import Library
from edgeexit.errors import EngineError

Shape = tuple[int, ...]


class ScratchMemory(NamedTuple):
    """Memory on the GPU that executions use while they run. It holds no data between runs."""

    address: int
    size: int


class OpenPlan:
    """A deserialized plan in the memory of the GPU. It and its executions are used by one thread at a time.

    Args:
        library: the library that built the plan.
        runtime: from `library.new_runtime`.
        name: name of the stage, for error messages.
        plan: the serialized plan.
        graphs: whether executions become CUDA graphs.

    Attributes:
        name: name of the stage.
        inputs: name -> dtype.
        outputs: name -> dtype.
        scratch_bytes: scratch memory that an execution needs.

    """

    def __init__(self, library: Library, runtime: Any, name: str, plan: bytes, *, graphs: bool) -> None:
        """Deserialize the plan. Raises EngineError if this library refuses it, or if it cannot run on this GPU."""
        self.name = name
        self._library = library
        self._graphs = graphs
        self._captures_graphs = graphs and not library.captures_graphs
        library.messages.clear()
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{name}: the plan cannot be opened: {library.messages.last_error()}")
        self._engine = engine
        self._kernel_cache = library.new_kernel_cache(engine)
        self.inputs: dict[str, np.dtype[Any]] = {}
        self.outputs: dict[str, np.dtype[Any]] = {}
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            if engine.get_tensor_location(tensor) != library.api.TensorLocation.DEVICE:
                raise EngineError(
                    f"{name}: TensorRT needs '{tensor}' in host memory, because shapes depend on its values; this "
                    "stage can only run on ONNX Runtime: compile the bundle for a CPU target"
                )
            is_input = engine.get_tensor_mode(tensor) == library.api.TensorIOMode.INPUT
            dtype = np.dtype(library.api.nptype(engine.get_tensor_dtype(tensor)))
            (self.inputs if is_input else self.outputs)[tensor] = dtype
        self.scratch_bytes = int(engine.device_memory_size_v2)

    @property
    def captures_graphs(self) -> bool:
        """Whether `Execution` captures CUDA graphs: not if the library captures them, nor after a failed capture."""
        return self._captures_graphs

    def disable_capture(self) -> None:
        """Run without CUDA graphs from now on: after one failure, no other shape is tried."""
        self._captures_graphs = False

    def clear_messages(self) -> None:
        """Delete TensorRT's messages, before a new operation."""
        self._library.messages.clear()

    def last_error(self) -> str:
        """Return TensorRT's reason for the last failure."""
        return self._library.messages.last_error()

    def new_context(self, scratch: ScratchMemory) -> tuple[Any, Any]:
        """Return an execution context on this scratch memory, and an object that must live as long as it.

        Raises EngineError if TensorRT refuses.
        """
        context, owner = self._library.new_context(self._engine, graphs=self._graphs, kernel_cache=self._kernel_cache)
        if context is None:
            raise EngineError(f"{self.name}: the GPU has no memory for another execution context: {self.last_error()}")
        self._library.set_scratch(context, scratch.address, scratch.size)
        return context, owner


class Execution:
    """An execution context of a plan with its present shapes and addresses, and the CUDA graph captured from it."""

    def __init__(self, plan: OpenPlan, scratch: ScratchMemory) -> None:
        """Create an execution context. Raises EngineError if TensorRT refuses."""
        self._plan = plan
        self._context, self._owner = plan.new_context(scratch)
        self._graph: Any = None
        self._has_run = False

    def set_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the shapes of the inputs and return those of the outputs. Call `set_addresses` next.

        Raises EngineError for shapes outside the plan's profile, and for outputs whose size depends on the data.
        """
        self._drop_graph()
        self._has_run = False
        self._plan.clear_messages()
        for name in self._plan.inputs:
            if not self._context.set_input_shape(name, inputs[name]):
                self._refuse(f"the shape {_text(inputs[name])} of '{name}'")
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._plan.outputs}
        for name, shape in shapes.items():
            if min(shape, default=0) < 0:
                raise EngineError(
                    f"{self._plan.name}: the size of '{name}' depends on the data; compile the bundle for a CPU target"
                )
        return shapes

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Set the address of every input and output, after their shapes were set. Raises EngineError."""
        for name in (*self._plan.inputs, *self._plan.outputs):
            if not self._context.set_tensor_address(name, addresses[name]):
                self._refuse(f"the address of '{name}'")

    def run(self, stream: CudaStream) -> None:
        """Enqueue a run, as a CUDA graph from the second run on if that works. Raises EngineError."""
        if self._graph is None and self._has_run and self._plan.captures_graphs:
            self._graph = self._capture(stream)
            if self._graph is None:
                self._plan.disable_capture()
        if self._graph is not None:
            cuda_call("cudaGraphLaunch", self._graph, stream.handle)
            return
        if not self._context.execute_async_v3(int(stream.handle)):
            raise EngineError(f"{self._plan.name} does not run: {self._plan.last_error()}")
        self._has_run = True

    def close(self) -> None:
        """Release graph and context. The scratch memory must still be allocated."""
        self._drop_graph()
        self._context = self._owner = None

    def _capture(self, stream: CudaStream) -> Any | None:
        """Return this execution as a CUDA graph; None if it cannot be captured (loops, conditions, a DLA)."""
        # In the global mode, other threads could not even allocate memory during the capture.
        cuda_call(
            "cudaStreamBeginCapture",
            stream.handle,
            cuda_runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        enqueued = self._context.execute_async_v3(int(stream.handle))
        try:
            graph = cuda_call("cudaStreamEndCapture", stream.handle)
        except EngineError:
            _clear_cuda_error()
            return None
        try:
            return cuda_call("cudaGraphInstantiate", graph, 0) if enqueued else None
        except EngineError:
            _clear_cuda_error()
            return None
        finally:
            release("cudaGraphDestroy", graph)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            release("cudaGraphExecDestroy", self._graph)
            self._graph = None

    def _refuse(self, setting: str) -> None:
        raise EngineError(f"{self._plan.name}: TensorRT refuses {setting}: {self._plan.last_error()}")


def _clear_cuda_error() -> None:
    """Clear the error of a failed call, which the CUDA runtime would report again at the next check."""
    cuda_runtime().cudaGetLastError()


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
