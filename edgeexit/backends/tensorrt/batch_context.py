"""The tensors of one batch on the GPU, and the executions of all stages on them."""

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.memory import CudaStream, DeviceMemory, StreamEvent
from edgeexit.backends.tensorrt.engines.build_config import stage_shapes
from edgeexit.backends.tensorrt.execution import Execution, OpenPlan, ScratchMemory, Shape
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, BuildConfig, Manifest
from edgeexit.errors import EngineError

_MAX_EXECUTIONS: Final = 32
"""Max executions per stage; beyond it, the least recently used one is reused for the new shapes. Only symbolic
dimensions other than the batch lead to so many shapes."""
_POWERS_OF_TWO_UP_TO: Final = 8
_SIZE_STEP: Final = 8

_Array = npt.NDArray[Any]
RowShapes = Mapping[str, Shape]
"""The shape of one sample of each tensor."""


class SharedResources(NamedTuple):
    """The objects that all batch contexts of a backend share.

    Hold `lock` to use them, because TensorRT's objects are not thread-safe.
    """

    manifest: Manifest
    build_config: BuildConfig
    plans: Sequence[OpenPlan]
    stream: CudaStream
    scratch: ScratchMemory
    lock: threading.Lock


class _DeviceTensor(NamedTuple):
    """Memory of a tensor on the GPU."""

    address: int
    size: int
    """Bytes; enough for the largest batch of the build config."""
    dtype: np.dtype[Any]


class _HostResults(NamedTuple):
    """Pinned host memory for the results of one stage."""

    readout: _Array
    probabilities: _Array


class _Temperature:
    """The temperature input of one stage on the GPU, uploaded when it changes."""

    def __init__(self, memory: DeviceMemory) -> None:
        self.address = memory.allocate(4)
        self._staging = memory.pin((1,), np.dtype(np.float32))
        self._value: float | None = None

    def set(self, value: float, stream: CudaStream) -> None:
        """Set the value for the stage's next run. The previous run must have ended."""
        if value != self._value:
            self._staging[0] = value
            stream.upload(self.address, self._staging)
            self._value = value


def padded_size(count: int, batch: tuple[int, int, int]) -> int:
    """Return the size of the batch that runs `count` samples: 1, 2, 4, 8 or a multiple of 8, within min and max.

    Each size needs its own CUDA graph, so there are only a few sizes. Above the min, at most 7 rows are padding.
    """
    smallest, _, largest = batch
    size = 1 << (count - 1).bit_length() if count <= _POWERS_OF_TWO_UP_TO else -(-count // _SIZE_STEP) * _SIZE_STEP
    return min(max(size, smallest), largest)


class BatchContext:
    """Memory, tensors and executions for one batch at a time. Created and used under the lock of `SharedResources`.

    Attributes:
        results: for each of the K stages a readout [max, 4] and probabilities [max, C] in pinned host memory.
        done: event to record behind the operations that the host waits for.

    """

    def __init__(self, shared: SharedResources) -> None:
        """Allocate everything. Raises EngineError if memory is short, or if a plan does not match the bundle."""
        self._shared = shared
        self._tensors: dict[str, _DeviceTensor] = {}
        self._staging: dict[str, _Array] = {}
        self._executions: list[OrderedDict[tuple[int, tuple[Shape, ...]], tuple[Execution, dict[str, Shape]]]] = [
            OrderedDict() for _ in shared.plans
        ]
        self._resources = ExitStack()
        with ExitStack() as resources:
            self._memory = DeviceMemory()
            resources.callback(self._memory.close)
            self.done = StreamEvent()
            resources.callback(self.done.close)
            resources.callback(self._close_executions)  # runs before the memory is freed
            self._temperatures = [_Temperature(self._memory) for _ in shared.plans]
            self._allocate()
            largest = shared.build_config.batch[-1]
            self.results = [
                _HostResults(
                    readout=self._pin_rows(largest, spec.exit.name + READOUT_SUFFIX, 4),
                    probabilities=self._pin_rows(
                        largest, spec.exit.name + PROBABILITIES_SUFFIX, shared.manifest.classes
                    ),
                )
                for spec in shared.manifest.stages
            ]
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Free everything in reverse order, under the lock."""
        with self._shared.lock:
            self._shared.stream.wait_quietly()
            self._resources.close()

    def put(self, name: str, samples: _Array, size: int) -> None:
        """Copy the samples of a model input and upload them; samples are repeated until there are `size` rows."""
        staging = self._staging.get(name)
        if staging is None:  # no stage reads it
            return
        count, shape = len(samples), samples.shape[1:]
        rows = np.frombuffer(staging, samples.dtype, size * math.prod(shape)).reshape(size, *shape)
        rows[:count] = samples
        if size > count:
            rows[count:] = samples[np.arange(count, size) % count]
        self._shared.stream.upload(self._tensors[name].address, rows)

    def run(self, stage: int, size: int, rows: RowShapes, temperature: float) -> dict[str, Shape]:
        """Enqueue a stage on the first `size` rows and return the shapes of its outputs. Raises EngineError."""
        execution, shapes = self._execution(stage, size, rows)
        self._temperatures[stage].set(temperature, self._shared.stream)
        execution.run(self._shared.stream)
        return shapes

    def fetch(self, name: str, target: _Array) -> None:
        """Enqueue a download of a tensor's first rows, as many as `target` has."""
        self._shared.stream.download(target, self._tensors[name].address)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype of a tensor."""
        return self._tensors[name].dtype

    def move(
        self, name: str, target: int, source: int, count: int, shape: Shape, *, of: "BatchContext | None" = None
    ) -> None:
        """Enqueue a copy of `count` rows from row `source`, of this or another context, to row `target`."""
        tensor = self._tensors[name]
        origin = tensor if of is None else of._tensors[name]  # noqa: SLF001 - of the same class
        row = math.prod(shape) * tensor.dtype.itemsize
        self._shared.stream.copy(tensor.address + target * row, origin.address + source * row, count * row)

    def _allocate(self) -> None:
        """Allocate every tensor for the largest batch. TensorRT computes the sizes of the outputs."""
        manifest, build_config = self._shared.manifest, self._shared.build_config
        dtypes = {spec.name: np.dtype(spec.dtype) for spec in manifest.inputs}
        shapes: dict[str, Shape] = {}
        for k, (spec, plan) in enumerate(zip(manifest.stages, self._shared.plans, strict=True)):
            largest = {name: sizes.max for name, sizes in stage_shapes(manifest, spec, build_config).items()}
            if largest.keys() != plan.inputs.keys():
                raise EngineError(
                    f"{spec.name}: plan and bundle have different inputs; run `edgeexit engines build --force`"
                )
            for name in (*spec.inputs, *spec.carry_in):
                if plan.inputs[name] != dtypes[name]:
                    raise EngineError(
                        f"{spec.name}: the plan reads '{name}' as {plan.inputs[name]}, but it is {dtypes[name]}; run "
                        "`edgeexit engines build --force`"
                    )
            execution, outputs = Execution(plan, self._shared.scratch), dict[str, Shape]()
            key = (build_config.batch[-1], tuple(largest[name][1:] for name in (*spec.inputs, *spec.carry_in)))
            self._executions[k][key] = (execution, outputs)
            outputs.update(execution.set_shapes(largest))
            dtypes |= plan.outputs
            shapes |= {name: largest[name] for name in spec.inputs} | outputs
        bytes_of = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
        # Raw outputs and companions are downloaded before the next stage runs, so all stages share the memory for them.
        carried = {name for spec in manifest.stages for name in spec.carry_in}
        shared = [{spec.exit.name for spec in manifest.stages} - carried]
        shared += [{spec.companions[name].name for spec in manifest.stages} for name in manifest.companions]
        addresses: dict[str, int] = {}
        for names in shared:
            address = self._memory.allocate(max((bytes_of[name] for name in names), default=0))
            addresses |= dict.fromkeys(names, address)
        for name, size in bytes_of.items():
            address = addresses[name] if name in addresses else self._memory.allocate(size)
            self._tensors[name] = _DeviceTensor(address, size, dtypes[name])
        for name in {name for spec in manifest.stages for name in spec.inputs}:
            self._staging[name] = self._memory.pin((bytes_of[name],), np.dtype(np.uint8))
        for k, executions in enumerate(self._executions):
            for execution, _ in executions.values():
                execution.set_addresses(self._addresses(k))

    def _pin_rows(self, rows: int, name: str, columns: int) -> _Array:
        return self._memory.pin((rows, columns), self._tensors[name].dtype)

    def _addresses(self, stage: int) -> dict[str, int]:
        addresses = {name: tensor.address for name, tensor in self._tensors.items()}
        return addresses | {TEMPERATURE_INPUT: self._temperatures[stage].address}

    def _execution(self, stage: int, size: int, rows: RowShapes) -> tuple[Execution, dict[str, Shape]]:
        """Return a stage's execution on `size` rows of these shapes, and the shapes of its outputs."""
        spec, executions = self._shared.manifest.stages[stage], self._executions[stage]
        key = (size, tuple(rows[name] for name in (*spec.inputs, *spec.carry_in)))
        found = executions.get(key)
        if found is not None:
            executions.move_to_end(key)
            return found
        if len(executions) < _MAX_EXECUTIONS:
            execution = Execution(self._shared.plans[stage], self._shared.scratch)
        else:  # reuse the oldest context, which is cheaper than creating one
            execution = executions.popitem(last=False)[1][0]
        shapes: dict[str, Shape] = {}
        executions[key] = (execution, shapes)  # stored first, so that it is closed if set_shapes fails
        inputs = {name: (size, *rows[name]) for name in (*spec.inputs, *spec.carry_in)}
        shapes.update(execution.set_shapes(inputs | {TEMPERATURE_INPUT: (1,)}))
        for name, shape in shapes.items():
            tensor = self._tensors[name]
            if math.prod(shape) * tensor.dtype.itemsize > tensor.size:
                raise EngineError(
                    f"{spec.name}: output '{name}' {'x'.join(map(str, shape))} is larger than the {tensor.size} bytes "
                    "that TensorRT computed for the max shapes of the build config"
                )
        execution.set_addresses(self._addresses(stage))
        return executions[key]

    def _close_executions(self) -> None:
        for executions in self._executions:
            for execution, _ in executions.values():
                execution.close()
            executions.clear()
