"""A stand-in for the execution of plans: ONNX Runtime runs the stages in the stand-in GPU's memory.

It raises MisuseError if a rule of TensorRT is broken. The real TensorRT-RTX builds the plans and writes the name of the
stage into each. Enumerations are the real ones.
"""

import ctypes
import math
import weakref
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgeexit.backends.onnxruntime.sessions import UNSAFE_OPTIMISERS
from tests.backends.tensorrt.gpu_standin import POISON, MisuseError

_TYPES = {"float": "float32"} | {name: name for name in ("float16", "int64", "int32", "int8", "uint8", "bool")}


class Runtime:
    """Opens a plan as the stage of the bundle that it names; stages in `wrong` add an offset to their logits."""

    def __init__(self, api, gpu, folder: Path, wrong, log):
        self._api, self._gpu, self._folder, self._wrong = api, gpu, folder, wrong

    def deserialize_cuda_engine(self, plan):
        for index, file in enumerate(sorted(self._folder.glob("*.onnx"))):
            if file.stem.encode() in plan:
                options = ort.SessionOptions()
                options.intra_op_num_threads = 1
                session = ort.InferenceSession(file, options, disabled_optimizers=UNSAFE_OPTIMISERS)
                # Neither the first nor the last stage needs the most scratch memory.
                scratch = 512 + 256 * (index % 2)
                return Engine(self._api, self._gpu, session, self._wrong.get(file.stem, 0.0), scratch)
        return None


class Engine:
    def __init__(self, api, gpu, session, offset, scratch):
        self._api, self._gpu, self._session, self._offset = api, gpu, session, offset
        self._inputs = [value.name for value in session.get_inputs()]
        self._types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
        self.num_io_tensors = len(self._types)
        self.device_memory_size_v2 = scratch

    def get_tensor_name(self, index):
        return list(self._types)[index]

    def get_tensor_mode(self, name):
        return self._api.TensorIOMode.INPUT if name in self._inputs else self._api.TensorIOMode.OUTPUT

    def get_tensor_location(self, name):
        return self._api.TensorLocation.HOST if name in self._gpu.hosted else self._api.TensorLocation.DEVICE

    def get_tensor_dtype(self, name):
        return getattr(self._api, _TYPES[self._types[name][len("tensor(") : -1]])

    def create_runtime_config(self):
        return RuntimeConfig()

    def create_execution_context(self, how):
        strategy = how.strategy if isinstance(how, RuntimeConfig) else how
        if strategy != self._api.ExecutionContextAllocationStrategy.USER_MANAGED:
            raise MisuseError("every context would allocate its own scratch memory")
        return Context(self, self._gpu, how)


class RuntimeCache:
    def serialize(self):
        return b""


class RuntimeConfig:
    cuda_graph_strategy = None

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = weakref.ref(cache)  # TensorRT-RTX does not keep it alive
        return True

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class Context:
    def __init__(self, engine, gpu, how):
        self._engine, self._gpu = engine, gpu
        self._config = weakref.ref(how) if isinstance(how, RuntimeConfig) else None
        self._shapes, self._addresses, self._scratch = {}, {}, (0, 0)
        self._changes = self._changes_at_run = 0  # number of changes so far, and at the last run

    def set_device_memory(self, memory, size):
        self._change()
        self._scratch = (memory, size)

    def set_input_shape(self, name, shape):
        self._change()
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        if name in self._gpu.sized_by_data:
            return (-1, *self._engine._session.get_outputs()[0].shape[1:])
        zeros = {key: np.zeros(shape, self._dtype(key)) for key, shape in self._shapes.items()}
        return self._engine._session.run([name], zeros)[0].shape

    def set_tensor_address(self, name, address):
        self._change()
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        gpu = self._gpu
        with gpu.lock:
            gpu.calls["execute_async_v3"] += 1
            _, size = self._scratch
            if stream == 0 or size < self._engine.device_memory_size_v2:
                raise MisuseError("a context runs in the default stream or with too little scratch memory")
            if self._config is not None and (self._config() is None or self._config().cache() is None):
                raise MisuseError("the runtime config of a context or its kernel cache was freed")
            capturing = gpu.streams[stream].captured is not None
            if capturing and gpu.captures != "succeed":
                gpu.streams[stream].capture_failed = gpu.captures == "invalidated"
                return False
            if capturing and self._changes_at_run != self._changes:
                raise MisuseError("a graph is captured before the context ran with these shapes and addresses")
            self._changes_at_run = self._changes
            gpu.enqueue(stream, self._work(dict(self._shapes), dict(self._addresses), self._changes, weakref.ref(self)))
            return True

    def _work(self, shapes, addresses, changes, context):
        """Return a function that runs the plan with these shapes and addresses; a graph calls it again."""
        gpu, engine, scratch = self._gpu, self._engine, self._scratch
        outputs = [value.name for value in engine._session.get_outputs()]
        dtypes = {name: self._dtype(name) for name in addresses}

        def array(name, shape, *, write):
            size = math.prod(shape) * dtypes[name].itemsize
            gpu.check(addresses[name], size, write=write)
            block = (ctypes.c_uint8 * size).from_address(addresses[name])
            return np.ctypeslib.as_array(block).view(dtypes[name]).reshape(shape)

        def work():
            if context() is None or context()._changes != changes:
                raise MisuseError("a context was changed or freed before it, or its graph, ran")
            gpu.check(scratch[0], engine.device_memory_size_v2, write=True)
            ctypes.memset(scratch[0], POISON, engine.device_memory_size_v2)
            feeds = {name: array(name, shape, write=False) for name, shape in shapes.items()}
            results = engine._session.run(outputs, feeds)
            for index, (name, result) in enumerate(zip(outputs, results, strict=True)):
                array(name, result.shape, write=True)[...] = result + (engine._offset if index == 0 else 0)

        return work

    def _change(self):
        self._changes += 1

    def _dtype(self, name):
        return np.dtype(self._engine._api.nptype(self._engine.get_tensor_dtype(name)))
