"""The one place where plans run on the GPU: opened, given shapes and addresses, enqueued, as a CUDA graph if it can be.

TensorRT's rules for CUDA graphs (its documentation, "CUDA Graphs"): a graph holds the shapes, the addresses and the
state of the context that it was captured from, so that context must not change while the graph is used, and every graph
has a context of its own; after a change of shapes a plan is enqueued once before it is captured. Contexts that run one
after the other in a stream may share their scratch memory.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from edgeexit.backends.tensorrt.cuda.gpu import cuda_call, cuda_runtime
from edgeexit.backends.tensorrt.cuda.memory import CudaStream, release
from edgeexit.backends.tensorrt.library import Library
from edgeexit.errors import EngineError

Shape = tuple[int, ...]


class Scratch(NamedTuple):
    """Memory of the GPU that executions use while they run, and that holds nothing in between."""

    address: int
    size: int


class OpenPlan:
    """A plan in the GPU's memory. Its executions are for one thread at a time, and so is making them.

    Args:
        library: what built it.
        runtime: from `library.new_runtime`.
        name: of the stage, for messages.
        plan: its bytes.
        graphs: whether executions become CUDA graphs.

    Attributes:
        name: of the stage.
        inputs: name -> dtype.
        outputs: name -> dtype.
        scratch_bytes: what an execution needs of scratch memory.

    """

    def __init__(self, library: Library, runtime: Any, name: str, plan: bytes, *, graphs: bool) -> None:
        """Open it. Raises EngineError for a plan that this library does not open, or that cannot run here."""
        self.name = name
        self._library = library
        self._graphs = graphs
        self._captured_here = graphs and not library.captures_graphs
        library.journal.clear()
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{name}: the plan does not open: {library.journal.why()}")
        self._engine = engine
        self._kernel_cache = library.new_kernel_cache(engine)
        self.inputs: dict[str, np.dtype[Any]] = {}
        self.outputs: dict[str, np.dtype[Any]] = {}
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            if engine.get_tensor_location(tensor) != library.api.TensorLocation.DEVICE:
                raise EngineError(
                    f"{name}: TensorRT wants '{tensor}' in the host's memory, for it decides shapes; such a stage "
                    "runs on ONNX Runtime only"
                )
            is_input = engine.get_tensor_mode(tensor) == library.api.TensorIOMode.INPUT
            dtype = np.dtype(library.api.nptype(engine.get_tensor_dtype(tensor)))
            (self.inputs if is_input else self.outputs)[tensor] = dtype
        self.scratch_bytes = int(engine.device_memory_size_v2)

    @property
    def captured_here(self) -> bool:
        """Whether executions are captured as CUDA graphs by this code; not any more, where that failed once."""
        return self._captured_here

    def give_up_capturing(self) -> None:
        """Run without CUDA graphs from now on: what failed once is not tried with every shape again."""
        self._captured_here = False

    def clear_journal(self) -> None:
        """Forget what TensorRT said, before a new piece of work."""
        self._library.journal.clear()

    def why(self) -> str:
        """Return TensorRT's reason for what it just refused."""
        return self._library.journal.why()

    def new_context(self, scratch: Scratch) -> tuple[Any, Any]:
        """Return an execution context that uses this scratch memory, and what must outlive it. Raises EngineError."""
        context, kept = self._library.new_context(self._engine, graphs=self._graphs, kernel_cache=self._kernel_cache)
        if context is None:
            raise EngineError(f"{self.name}: the plan has no room to run: {self.why()}")
        self._library.lend_scratch(context, scratch.address, scratch.size)
        return context, kept


class Execution:
    """A plan with shapes and addresses, which stay as they are until it gets others."""

    def __init__(self, plan: OpenPlan, scratch: Scratch) -> None:
        """Make a context for it. Raises EngineError where TensorRT gives none."""
        self._plan = plan
        self._context, self._kept = plan.new_context(scratch)
        self._graph: Any = None
        self._has_run = False

    def set_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Take inputs of these shapes from now on, at addresses still to be set; return the outputs' shapes.

        Raises EngineError for shapes that the plan does not take, and for outputs whose size depends on the data.
        """
        self._drop_graph()
        self._has_run = False
        self._plan.clear_journal()
        for name in self._plan.inputs:
            if not self._context.set_input_shape(name, inputs[name]):
                self._refuse(f"'{name}' {_text(inputs[name])}")
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._plan.outputs}
        for name, shape in shapes.items():
            if min(shape, default=0) < 0:
                raise EngineError(f"{self._plan.name}: the size of '{name}' depends on the data")
        return shapes

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Read and write every tensor there from now on; its shapes have just been set. Raises EngineError."""
        for name in (*self._plan.inputs, *self._plan.outputs):
            if not self._context.set_tensor_address(name, addresses[name]):
                self._refuse(f"'{name}' at its address")

    def run(self, stream: CudaStream) -> None:
        """Ask for a run: as a CUDA graph from the second time on, where that works. Raises EngineError."""
        if self._graph is None and self._has_run and self._plan.captured_here:
            self._graph = self._capture(stream)
            if self._graph is None:
                self._plan.give_up_capturing()
        if self._graph is not None:
            cuda_call("cudaGraphLaunch", self._graph, stream.handle)
            return
        if not self._context.execute_async_v3(int(stream.handle)):
            raise EngineError(f"{self._plan.name} does not run: {self._plan.why()}")
        self._has_run = True

    def close(self) -> None:
        """Give graph and context back; the scratch memory must still be there."""
        self._drop_graph()
        self._context = self._kept = None

    def _capture(self, stream: CudaStream) -> Any | None:
        """Return this execution as a CUDA graph, or None where that does not work: with loops, conditions, on a DLA."""
        # Not the global mode, in which other threads may not even allocate memory meanwhile.
        cuda_call(
            "cudaStreamBeginCapture",
            stream.handle,
            cuda_runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        enqueued = self._context.execute_async_v3(int(stream.handle))
        try:
            graph = cuda_call("cudaStreamEndCapture", stream.handle)
        except EngineError:
            _forget_error()
            return None
        try:
            return cuda_call("cudaGraphInstantiate", graph, 0) if enqueued else None
        except EngineError:
            _forget_error()
            return None
        finally:
            release("cudaGraphDestroy", graph)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            release("cudaGraphExecDestroy", self._graph)
            self._graph = None

    def _refuse(self, what: str) -> None:
        raise EngineError(f"{self._plan.name} does not take {what}: {self._plan.why()}")


def _forget_error() -> None:
    """Take note of a failed call, which the CUDA runtime would tell again with the next one that looks for errors."""
    cuda_runtime().cudaGetLastError()


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
