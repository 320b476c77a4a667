"""What one batch at a time needs on the GPU: its tensors, and the executions of all stages on them."""

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.memory import CudaStream, DeviceMemory, Mark
from edgeexit.backends.tensorrt.engines.build_config import stage_shapes
from edgeexit.backends.tensorrt.execution import Execution, OpenPlan, Scratch, Shape
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, BuildConfig, Manifest
from edgeexit.errors import EngineError

_MAX_EXECUTIONS: Final = 32
"""Kept for each stage; only lengths known at run time make more, and then the one that was used longest ago goes."""
_SMALL: Final = 8
_STEP: Final = 8

_Any = npt.NDArray[Any]
RowShapes = Mapping[str, Shape]
"""The shape of one sample of each tensor."""


class Staged(NamedTuple):
    """What the lanes of a backend share, and use under its lock: TensorRT's objects are for one thread at a time."""

    manifest: Manifest
    build_config: BuildConfig
    plans: Sequence[OpenPlan]
    stream: CudaStream
    scratch: Scratch
    lock: threading.Lock


class _Tensor(NamedTuple):
    """A tensor's place in the GPU's memory."""

    address: int
    size: int
    """Bytes; enough for the recipe's largest batch."""
    dtype: np.dtype[Any]


class _Answers(NamedTuple):
    """Where one stage's answers arrive on the host; pinned."""

    readout: _Any
    probabilities: _Any


class _Temperature:
    """One stage's temperature on the GPU, brought there when it changes."""

    def __init__(self, memory: DeviceMemory) -> None:
        self.address = memory.allocate(4)
        self._staging = memory.pin((1,), np.dtype(np.float32))
        self._value: float | None = None

    def set(self, value: float, stream: CudaStream) -> None:
        """Let the stage's next run see this value; the one before must have ended."""
        if value != self._value:
            self._staging[0] = value
            stream.upload(self.address, self._staging)
            self._value = value


def padded(count: int, batch: tuple[int, int, int]) -> int:
    """Return how many samples to run for `count`: the recipe's least and most, 1, 2, 4, 8 and every 8 between.

    Few sizes, so that each has its CUDA graph; at most 7 samples are run for nothing.
    """
    least, _, most = batch
    size = 1 << (count - 1).bit_length() if count <= _SMALL else -(-count // _STEP) * _STEP
    return min(max(size, least), most)


class BatchContext:
    """Memory, tensors and executions for one batch at a time. Made and used under the lock of what lanes share.

    Attributes:
        answers: [K]; [most, 4] and [most, C] each, pinned.
        mark: set behind what the host is to wait for.

    """

    def __init__(self, staged: Staged) -> None:
        """Allocate it all. Raises EngineError where there is no room, or where a plan does not fit the bundle."""
        self._staged = staged
        self._tensors: dict[str, _Tensor] = {}
        self._staging: dict[str, _Any] = {}
        self._executions: list[OrderedDict[tuple[int, tuple[Shape, ...]], tuple[Execution, dict[str, Shape]]]] = [
            OrderedDict() for _ in staged.plans
        ]
        self._resources = ExitStack()
        with ExitStack() as resources:
            self._memory = DeviceMemory()
            resources.callback(self._memory.close)
            self.mark = Mark()
            resources.callback(self.mark.close)
            resources.callback(self._close_executions)  # before the memory that they use
            self._temperatures = [_Temperature(self._memory) for _ in staged.plans]
            self._allocate()
            most = staged.build_config.batch[-1]
            self.predictions = [
                _Answers(
                    readout=self._pin_rows(most, spec.exit.name + READOUT_SUFFIX, 4),
                    probabilities=self._pin_rows(most, spec.exit.name + PROBABILITIES_SUFFIX, staged.manifest.classes),
                )
                for spec in staged.manifest.stages
            ]
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Free everything, in reverse order; takes the lock."""
        with self._staged.lock:
            self._staged.stream.settle()
            self._resources.close()

    def put(self, name: str, samples: _Any, size: int) -> None:
        """Bring a model input's samples to the GPU, repeated until they are `size`; they are copied at once."""
        staging = self._staging.get(name)
        if staging is None:  # no stage reads it
            return
        count, shape = len(samples), samples.shape[1:]
        rows = np.frombuffer(staging, samples.dtype, size * math.prod(shape)).reshape(size, *shape)
        rows[:count] = samples
        if size > count:
            rows[count:] = samples[np.arange(count, size) % count]
        self._staged.stream.upload(self._tensors[name].address, rows)

    def run(self, stage: int, size: int, rows: RowShapes, temperature: float) -> dict[str, Shape]:
        """Ask for a stage on the first `size` rows, and return the shapes of what it makes. Raises EngineError."""
        execution, shapes = self._execution(stage, size, rows)
        self._temperatures[stage].set(temperature, self._staged.stream)
        execution.run(self._staged.stream)
        return shapes

    def fetch(self, name: str, target: _Any) -> None:
        """Ask for a tensor's first rows, as many as `target` has; it holds nothing until they have arrived."""
        self._staged.stream.download(target, self._tensors[name].address)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return a tensor's dtype."""
        return self._tensors[name].dtype

    def move(
        self, name: str, target: int, source: int, count: int, shape: Shape, *, of: "BatchContext | None" = None
    ) -> None:
        """Ask for `count` rows from place `source`, here or in another lane, to be copied to place `target`."""
        tensor = self._tensors[name]
        origin = tensor if of is None else of._tensors[name]  # noqa: SLF001 - one of its own
        row = math.prod(shape) * tensor.dtype.itemsize
        self._staged.stream.copy(tensor.address + target * row, origin.address + source * row, count * row)

    def _allocate(self) -> None:
        """Make room for the largest batch of every tensor, learning from TensorRT what the outputs' sizes are."""
        manifest, build_config = self._staged.manifest, self._staged.build_config
        dtypes = {spec.name: np.dtype(spec.dtype) for spec in manifest.inputs}
        shapes: dict[str, Shape] = {}
        for k, (spec, plan) in enumerate(zip(manifest.stages, self._staged.plans, strict=True)):
            most = {name: sizes.most for name, sizes in stage_shapes(manifest, spec, build_config).items()}
            if most.keys() != plan.inputs.keys():
                raise EngineError(
                    f"{spec.name}: plan and bundle read other tensors; run `edgeexit engines build` again"
                )
            for name in (*spec.inputs, *spec.carry_in):
                if plan.inputs[name] != dtypes[name]:
                    raise EngineError(f"{spec.name} reads '{name}' as {plan.inputs[name]}, it is {dtypes[name]}")
            execution, made = Execution(plan, self._staged.scratch), dict[str, Shape]()
            key = (build_config.batch[-1], tuple(most[name][1:] for name in (*spec.inputs, *spec.carry_in)))
            self._executions[k][key] = (execution, made)
            made.update(execution.set_shapes(most))
            dtypes |= plan.outputs
            shapes |= {name: most[name] for name in spec.inputs} | made
        bytes_of = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
        # Raw outputs are fetched before the next stage runs, so those of all stages have one place.
        carried = {name for spec in manifest.stages for name in spec.carry_in}
        raw = {spec.exit.name for spec in manifest.stages} - carried
        place = self._memory.allocate(max((bytes_of[name] for name in raw), default=0))
        for name, size in bytes_of.items():
            self._tensors[name] = _Tensor(place if name in raw else self._memory.allocate(size), size, dtypes[name])
        for name in {name for spec in manifest.stages for name in spec.inputs}:
            self._staging[name] = self._memory.pin((bytes_of[name],), np.dtype(np.uint8))
        for k, kept in enumerate(self._executions):
            for execution, _ in kept.values():
                execution.set_addresses(self._addresses(k))

    def _pin_rows(self, most: int, name: str, columns: int) -> _Any:
        return self._memory.pin((most, columns), self._tensors[name].dtype)

    def _addresses(self, stage: int) -> dict[str, int]:
        addresses = {name: tensor.address for name, tensor in self._tensors.items()}
        return addresses | {TEMPERATURE_INPUT: self._temperatures[stage].address}

    def _execution(self, stage: int, size: int, rows: RowShapes) -> tuple[Execution, dict[str, Shape]]:
        """Return a stage's execution on `size` rows of these shapes, and the shapes of what it makes."""
        spec, kept = self._staged.manifest.stages[stage], self._executions[stage]
        key = (size, tuple(rows[name] for name in (*spec.inputs, *spec.carry_in)))
        found = kept.get(key)
        if found is not None:
            kept.move_to_end(key)
            return found
        if len(kept) < _MAX_EXECUTIONS:
            execution = Execution(self._staged.plans[stage], self._staged.scratch)
        else:  # its context serves again, which costs less than a new one
            execution = kept.popitem(last=False)[1][0]
        shapes: dict[str, Shape] = {}
        kept[key] = (execution, shapes)  # first, so that it is closed whatever happens
        inputs = {name: (size, *rows[name]) for name in (*spec.inputs, *spec.carry_in)}
        shapes.update(execution.set_shapes(inputs | {TEMPERATURE_INPUT: (1,)}))
        for name, shape in shapes.items():
            tensor = self._tensors[name]
            if math.prod(shape) * tensor.dtype.itemsize > tensor.size:
                raise EngineError(f"{spec.name} makes '{name}' larger than at the recipe's largest shapes")
        execution.set_addresses(self._addresses(stage))
        return kept[key]

    def _close_executions(self) -> None:
        for kept in self._executions:
            for execution, _ in kept.values():
                execution.close()
            kept.clear()
