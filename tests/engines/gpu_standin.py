"""Stands in for the GPU that test machines have not: device memory on the host, and stages run by ONNX Runtime.

Plans are still built by the real TensorRT-RTX, which writes the stage's name into each. Enumerations and status codes
are the real libraries' own.
"""

import ctypes
import types
from pathlib import Path

import numpy as np
import onnxruntime as ort

SM = (8, 6)


class Memory:
    """What cudaMalloc gave and cudaFree has not taken back."""

    def __init__(self):
        self.blocks = {}
        self.limit = 1 << 30

    def allocate(self, size):
        if size + sum(map(len, self.blocks.values())) > self.limit:
            return None
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)


def make_cuda(real, memory):
    """Return a module like cuda.bindings.runtime for a machine with one GPU."""
    ok, out_of_memory = real.cudaError_t.cudaSuccess, real.cudaError_t.cudaErrorMemoryAllocation
    attributes = {
        real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: SM[0],
        real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: SM[1],
    }

    def malloc(size):
        address = memory.allocate(size)
        return (out_of_memory, None) if address is None else (ok, address)

    def free(address):
        del memory.blocks[address]  # a second time fails
        return (ok,)

    def copy(target, source, size, kind, stream=None):
        ctypes.memmove(target, source, size)
        return (ok,)

    return types.SimpleNamespace(
        cudaError_t=real.cudaError_t,
        cudaMemcpyKind=real.cudaMemcpyKind,
        cudaDeviceAttr=real.cudaDeviceAttr,
        cudaGetErrorString=lambda status: (ok, status.name.encode()),
        cudaGetDevice=lambda: (ok, 0),
        cudaDeviceGetAttribute=lambda attribute, _device: (ok, attributes[attribute]),
        cudaDriverGetVersion=lambda: (ok, 13020),
        cudaGetDeviceProperties=lambda _device: (ok, types.SimpleNamespace(name=b"Stand-in A2000")),
        cudaStreamCreate=lambda: (ok, 7),
        cudaStreamSynchronize=lambda _stream: (ok,),
        cudaStreamDestroy=lambda _stream: (ok,),
        cudaMalloc=malloc,
        cudaFree=free,
        cudaMemcpy=copy,
        cudaMemcpyAsync=copy,
    )


class Runtime:
    """Opens a plan by finding the stage that it names in a bundle's folder; `wrong` stages answer with an offset."""

    def __init__(self, api, folder: Path, wrong, log):
        self._api, self._folder, self._wrong = api, folder, wrong

    def deserialize_cuda_engine(self, plan):
        for file in sorted(self._folder.glob("*.onnx")):
            if file.stem.encode() in plan:
                return Engine(self._api, ort.InferenceSession(file), self._wrong.get(file.stem, 0.0))
        return None


class Engine:
    def __init__(self, api, session, offset):
        self._api, self.session, self.offset = api, session, offset
        self._inputs = [value.name for value in session.get_inputs()]
        self._types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
        self.num_io_tensors = len(self._types)

    def get_tensor_name(self, index):
        return list(self._types)[index]

    def get_tensor_mode(self, name):
        return self._api.TensorIOMode.INPUT if name in self._inputs else self._api.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return {"tensor(float)": self._api.float32, "tensor(int64)": self._api.int64}[self._types[name]]

    def create_execution_context(self):
        return Context(self._api, self)


class Context:
    def __init__(self, api, engine):
        self._api, self._engine = api, engine
        self._shapes, self._addresses = {}, {}

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        zeros = {key: np.zeros(shape, self._dtype(key)) for key, shape in self._shapes.items()}
        return self._engine.session.run([name], zeros)[0].shape

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        feeds = {name: self._array(name, shape) for name, shape in self._shapes.items()}
        names = [value.name for value in self._engine.session.get_outputs()]
        for index, (name, result) in enumerate(zip(names, self._engine.session.run(names, feeds), strict=True)):
            self._array(name, result.shape)[...] = result + (self._engine.offset if index == 0 else 0)
        return True

    def _dtype(self, name):
        return np.dtype(self._api.nptype(self._engine.get_tensor_dtype(name)))

    def _array(self, name, shape):
        count = int(np.prod(shape)) * self._dtype(name).itemsize
        block = (ctypes.c_char * count).from_address(self._addresses[name])
        return np.frombuffer(block, self._dtype(name)).reshape(shape)
