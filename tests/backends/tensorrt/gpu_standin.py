"""A strict stand-in for a GPU, which test machines do not have: CUDA's memory, streams, events and graphs.

Operations run only when the host waits for them. Undefined behaviour, for example a read of memory that was never
written, raises MisuseError, which is not an EdgeExitError. Enumerations and status codes are the real ones.
"""

import collections
import contextlib
import ctypes
import itertools
import re
import threading
import types

SM = (8, 6)
POISON = 0xFF  # as float32 a NaN, as int64 -1


class MisuseError(AssertionError):
    """An operation whose result is undefined on a real GPU."""


class Block:
    """An allocation; `written` has a 1 for each byte that was written."""

    def __init__(self, size):
        self.bytes = ctypes.create_string_buffer(bytes([POISON]) * size, size)
        self.address, self.size = ctypes.addressof(self.bytes), size
        self.written = bytearray(size)


class CudaStream:
    def __init__(self):
        self.queue = collections.deque()
        self.enqueued = self.executed = 0  # number of operations
        self.captured = None
        self.capture_failed = False


class Gpu:
    """The state of the GPU.

    `fail_next`: function that will fail -> (calls that succeed before it fails, status, whether all later calls fail).
    """

    def __init__(self, real):
        self.status = real.cudaError_t
        self.device, self.pinned = {}, {}
        self.streams, self.events, self.graphs = {}, {}, {}
        self.limit = 1 << 30
        self.lock = threading.RLock()
        self.fail_next = {}
        self.broken = None
        self.calls = collections.Counter()
        self.bytes = collections.Counter()  # copied, by kind
        # "invalidated": the capture fails. "refused": the enqueue call returns False, and the capture is empty.
        self.captures = "succeed"
        self.hosted = set()  # tensors that TensorRT needs in host memory
        self.sized_by_data = set()  # tensors whose size depends on the data
        self._handles = itertools.count(7)

    @property
    def blocks(self):
        """All resources that were not released."""
        return {**self.device, **self.pinned, **self.streams, **self.events, **self.graphs}

    def new_handle(self):
        return next(self._handles)

    def enqueue(self, stream, work):
        """Append work to a stream; a stream that captures only records it."""
        stream = self.streams[int(stream)]
        if stream.captured is not None:
            stream.captured.append(work)
            return
        stream.queue.append(work)
        stream.enqueued += 1

    def run_until(self, stream, count):
        """Run the queue of a stream until `count` operations have been executed."""
        while stream.executed < count:
            stream.executed += 1
            stream.queue.popleft()()

    def check(self, address, size, *, write):
        """Mark bytes as written, or check that bytes to read were written. They must be in one live allocation."""
        for block in self.device.values():
            if block.address <= address and address + size <= block.address + block.size:
                span = slice(address - block.address, address - block.address + size)
                if write:
                    block.written[span] = b"\1" * size
                elif not all(block.written[span]):
                    raise MisuseError(f"{size} bytes are read, but not all were written")
                return
        raise MisuseError(f"{size} bytes at {address:#x} are not allocated on the GPU")

    def failure(self, name):
        """Return the status with which a function fails, or None."""
        after, status, sticky = self.fail_next.get(name, (1, None, False))
        if name in self.fail_next:
            self.fail_next[name] = (after - 1, status, sticky)
            if not after:
                del self.fail_next[name]
                if sticky:
                    self.broken = status
                    for stream in self.streams.values():  # a broken CUDA context executes nothing
                        stream.queue.clear()
                        stream.executed = stream.enqueued
                return status
        return None if name.startswith("cudaGet") else self.broken

    def is_pinned(self, address):
        return any(block.address <= address < block.address + block.size for block in self.pinned.values())


class Cuda:
    """The functions of a module like cuda.bindings.runtime on a machine with this one GPU."""

    def __init__(self, real, gpu):
        self.real, self.gpu = real, gpu
        self.error, self.kinds = real.cudaError_t, real.cudaMemcpyKind
        self.ok = self.error.cudaSuccess

    def get_attribute(self, attribute, _device):
        names = self.real.cudaDeviceAttr
        major, minor = names.cudaDevAttrComputeCapabilityMajor, names.cudaDevAttrComputeCapabilityMinor
        return self.ok, {major: SM[0], minor: SM[1]}[attribute]

    def allocate(self, memory, size):
        if any(stream.captured is not None for stream in self.gpu.streams.values()):
            raise MisuseError("memory is allocated while a graph is captured")
        if size + sum(block.size for block in self.gpu.device.values()) > self.gpu.limit:
            return self.error.cudaErrorMemoryAllocation, None
        block = Block(size)
        memory[block.address] = block
        return self.ok, block.address

    def free(self, memory, address):
        for stream in self.gpu.streams.values():  # like cudaFree, which waits for the GPU
            self.gpu.run_until(stream, stream.enqueued)
        if address not in memory:
            raise MisuseError("memory is freed that is not allocated")
        del memory[address]
        return (self.ok,)

    def copy(self, target, source, size, kind, stream):
        gpu, kinds = self.gpu, self.kinds
        gpu.bytes[kind.name.removeprefix("cudaMemcpy")] += size
        if kind == kinds.cudaMemcpyDeviceToDevice and abs(target - source) < size:
            raise MisuseError("source and target of a copy overlap")
        pageable = kind == kinds.cudaMemcpyHostToDevice and not gpu.is_pinned(source)
        now = ctypes.string_at(source, size) if pageable else None
        if kind == kinds.cudaMemcpyHostToDevice and bytes([POISON]) * 8 in ctypes.string_at(source, size):
            raise MisuseError("uninitialized pinned memory is copied to the GPU")

        def work():
            if kind != kinds.cudaMemcpyHostToDevice:
                gpu.check(source, size, write=False)
            if kind != kinds.cudaMemcpyDeviceToHost:
                gpu.check(target, size, write=True)
            ctypes.memmove(target, source if now is None else now, size)

        gpu.enqueue(stream, work)
        return (self.ok,)

    def create(self, resources, resource):
        handle = self.gpu.new_handle()
        resources[handle] = resource
        return self.ok, handle

    def destroy(self, resources, handle):
        if int(handle) not in resources:
            raise MisuseError("a resource is released that does not exist")
        del resources[int(handle)]
        return (self.ok,)

    def wait_for_stream(self, stream):
        stream = self.gpu.streams[int(stream)]
        if stream.captured is not None:
            raise MisuseError("the host waits for a stream that captures")
        self.gpu.run_until(stream, stream.enqueued)
        return (self.ok,)

    def record(self, event, stream):
        stream = self.gpu.streams[int(stream)]
        self.gpu.events[int(event)] = (stream, stream.enqueued)
        return (self.ok,)

    def wait_for_event(self, event):
        if self.gpu.events[int(event)] is not None:
            self.gpu.run_until(*self.gpu.events[int(event)])
        return (self.ok,)

    def begin_capture(self, stream, mode):
        if mode != self.real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            raise MisuseError("this capture mode disturbs other threads")
        stream = self.gpu.streams[int(stream)]
        stream.captured, stream.capture_failed = [], False
        return (self.ok,)

    def end_capture(self, stream):
        stream = self.gpu.streams[int(stream)]
        captured, stream.captured = stream.captured, None
        if stream.capture_failed:
            return self.error.cudaErrorStreamCaptureInvalidated, 0
        return self.create(self.gpu.graphs, captured)

    def launch(self, graph, stream):
        for work in self.gpu.graphs[int(graph)]:
            self.gpu.enqueue(stream, work)
        return (self.ok,)

    def functions(self):
        gpu, ok = self.gpu, self.ok
        return {
            "cudaGetErrorString": lambda status: (ok, status.name.encode()),
            "cudaGetLastError": lambda: (ok,),
            "cudaGetDevice": lambda: (ok, 0),
            "cudaDeviceGetAttribute": self.get_attribute,
            "cudaDriverGetVersion": lambda: (ok, 13020),
            "cudaGetDeviceProperties": lambda _device: (ok, types.SimpleNamespace(name=b"Stand-in A2000")),
            "cudaStreamCreateWithFlags": lambda _flags: self.create(gpu.streams, CudaStream()),
            "cudaStreamSynchronize": self.wait_for_stream,
            "cudaStreamDestroy": lambda stream: self.destroy(gpu.streams, stream),
            "cudaStreamBeginCapture": self.begin_capture,
            "cudaStreamEndCapture": self.end_capture,
            "cudaEventCreateWithFlags": lambda _flags: self.create(gpu.events, None),
            "cudaEventRecord": self.record,
            "cudaEventSynchronize": self.wait_for_event,
            "cudaEventDestroy": lambda event: self.destroy(gpu.events, event),
            "cudaGraphInstantiate": lambda graph, _flags: self.create(gpu.graphs, tuple(gpu.graphs[int(graph)])),
            "cudaGraphLaunch": self.launch,
            "cudaGraphDestroy": lambda graph: self.destroy(gpu.graphs, graph),
            "cudaGraphExecDestroy": lambda graph: self.destroy(gpu.graphs, graph),
            "cudaMalloc": lambda size: self.allocate(gpu.device, size),
            "cudaFree": lambda address: self.free(gpu.device, address),
            "cudaMallocHost": lambda size: self.allocate(gpu.pinned, size),
            "cudaFreeHost": lambda address: self.free(gpu.pinned, address),
            "cudaMemcpyAsync": self.copy,
        }

    def strict(self, name, function):
        """Wrap a function so that it checks the number of its arguments, and fails if `fail_next` names it."""
        gpu = self.gpu
        signature = getattr(self.real, name).__doc__.splitlines()[0]  # e.g. cudaGraphLaunch(graphExec, stream)
        names = [name for name in re.search(r"\((.*)\)", signature)[1].split(",") if name]

        def call(*arguments):
            assert len(arguments) == len(names), signature
            with gpu.lock:
                gpu.calls[name] += 1
                status = gpu.failure(name)
                if status is None:
                    return function(*arguments)
                if name.endswith(("Free", "FreeHost", "Destroy")):  # the broken context has freed it
                    with contextlib.suppress(KeyError):
                        function(*arguments)
                return status, None

        return call


def make_cuda(real, gpu):
    """Return a module like cuda.bindings.runtime for a machine with this one GPU."""
    constants = (
        "cudaError_t",
        "cudaMemcpyKind",
        "cudaDeviceAttr",
        "cudaStreamCaptureMode",
        "cudaStreamNonBlocking",
        "cudaEventDisableTiming",
    )
    cuda = Cuda(real, gpu)
    return types.SimpleNamespace(
        **{name: getattr(real, name) for name in constants},
        **{name: cuda.strict(name, function) for name, function in cuda.functions().items()},
    )
