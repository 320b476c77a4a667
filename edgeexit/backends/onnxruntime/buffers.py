"""Buffers that the stages of a batch read and write by I/O binding, so that nothing is copied between stages."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, Manifest, TensorSpec
from edgeexit.policies.readout import COLUMNS

_ALIGNMENT: Final = 64  # bytes; a cache line, and the width of the widest vector registers
_CPU: Final = "cpu"

_Array = npt.NDArray[Any]
DimensionSizes = tuple[tuple[str, int], ...]
"""Name and size of every symbolic dimension except the batch."""


class StageTensors(NamedTuple):
    """Names of the inputs and outputs of one stage, computed once because every run needs them."""

    name: str
    inputs: tuple[str, ...]
    """Model inputs and carry."""
    outputs: tuple[str, ...]
    """Raw output, readout, carry, companions and, as the last one, the probabilities."""
    output: str
    readout: str
    probabilities: str
    companions: tuple[tuple[str, str], ...]
    """(companion name, tensor name) of each companion of the stage's exit."""
    live_after: tuple[str, ...]
    """The live tensors after this stage."""


class StageTensorPlan(NamedTuple):
    """The tensors of all stages of a bundle."""

    stages: tuple[StageTensors, ...]
    specs: Mapping[str, TensorSpec]
    """Name -> specification of every input, output, readout, probability, carry and companion tensor."""
    symbolic_dimensions: tuple[tuple[str, str, int], ...]
    """Every symbolic dimension of the model inputs except the batch: its name, an input that has it, and the axis."""


def make_tensor_plan(manifest: Manifest) -> StageTensorPlan:
    """Return the tensor plan of a bundle."""
    specs = {spec.name: spec for spec in manifest.inputs}
    stages = []
    for index, stage in enumerate(manifest.stages):
        output, batch = stage.exit.name, stage.exit.shape[0]
        readout = TensorSpec(name=output + READOUT_SUFFIX, dtype="float32", shape=(batch, len(COLUMNS)))
        probabilities = TensorSpec(name=output + PROBABILITIES_SUFFIX, dtype="float32", shape=(batch, manifest.classes))
        named = (stage.exit, readout, *stage.carry_out, *stage.companions.values(), probabilities)
        outputs = {spec.name: spec for spec in named}
        specs |= outputs
        stages.append(
            StageTensors(
                name=stage.name,
                inputs=(*stage.inputs, *stage.carry_in),
                outputs=tuple(outputs),
                output=output,
                readout=readout.name,
                probabilities=probabilities.name,
                companions=tuple((name, spec.name) for name, spec in stage.companions.items()),
                live_after=tuple(spec.name for spec in manifest.live_after(index)),
            )
        )
    dimensions = {
        size: (size, spec.name, axis)
        for spec in manifest.inputs
        for axis, size in enumerate(spec.shape)
        if axis and isinstance(size, str)
    }
    return StageTensorPlan(tuple(stages), specs, tuple(dimensions.values()))


def sizes_of(plan: StageTensorPlan, inputs: Mapping[str, _Array]) -> DimensionSizes:
    """Return the sizes of the symbolic dimensions in these inputs."""
    if not plan.symbolic_dimensions:
        return ()
    return tuple([(dimension, inputs[name].shape[axis]) for dimension, name, axis in plan.symbolic_dimensions])


class _BoundStage(NamedTuple):
    """A stage that is bound for one batch size, and views of its results in the buffers."""

    run: Callable[[], None]
    readout: _Array
    """[B, 4]."""
    outputs: _Array
    """[B, C] or [B, C, H, W]."""


class Buffers:
    """Memory for batches of up to `capacity` samples with equal symbolic dimensions, and the bindings of stages to it.

    A binding is created once per stage and batch size and then reused, so a further run of a stage is a single call. A
    tensor whose size is only known after the run has no buffer: ONNX Runtime allocates it, and the stage is bound again
    for every run.

    Attributes:
        sessions: the sessions of the stages.
        sizes: sizes of the symbolic dimensions.
        capacity: max number of samples.
        arrays: tensor name -> [capacity, ...], whose first B rows are the samples, or [B, ...] for a tensor without a
            buffer.
        readout: [B, 4] of the stage that ran last.
        outputs: [B, C] or [B, C, H, W] of the stage that ran last.

    """

    def __init__(
        self, plan: StageTensorPlan, sessions: Sequence[ort.InferenceSession], sizes: DimensionSizes, capacity: int
    ) -> None:
        self.sizes = sizes
        self.capacity = capacity
        self.arrays: dict[str, _Array] = {}
        self._temperatures = [1.0] * len(plan.stages)
        self._temperature_arrays = [np.ones(1, dtype=np.float32) for _ in plan.stages]
        self._plan = plan
        self.sessions = sessions
        self._shapes = {name: _shape(spec, dict(sizes)) for name, spec in plan.specs.items()}
        self._bound: dict[tuple[int, int, bool], _BoundStage] = {}
        self.readout = self.outputs = np.empty((0, 0), dtype=np.float32)

    def put(self, name: str, rows: _Array, *, at: int = 0) -> None:
        """Write samples of a tensor, beginning at row `at`."""
        array = self._buffer(name)
        if array is not None:
            array[at : at + len(rows)] = rows
        elif at:
            self.arrays[name] = np.concatenate([self.arrays[name][:at], rows])
        else:
            self.arrays[name] = np.ascontiguousarray(rows)

    def run(self, stage: int, count: int, temperature: float, *, probabilities: bool) -> None:
        """Run a stage on the first `count` samples. Raises the exceptions of ONNX Runtime."""
        if temperature != self._temperatures[stage]:
            self._temperatures[stage] = temperature
            self._temperature_arrays[stage][0] = temperature
        bound = self._bound.get((stage, count, probabilities))
        if bound is None:
            self._run_unbound(stage, count, probabilities=probabilities)
        else:
            run, self.readout, self.outputs = bound
            run()

    def _run_unbound(self, stage: int, count: int, *, probabilities: bool) -> None:
        """Bind a stage and run it; store the binding if it can be reused."""
        tensors = self._plan.stages[stage]
        binding, unbuffered = self._bind(stage, count, probabilities=probabilities)
        self.sessions[stage].run_with_iobinding(binding)
        if unbuffered:
            outputs = binding.get_outputs()
            self.arrays |= {name: outputs[index].numpy() for name, index in unbuffered.items()}
        self.readout, self.outputs = self.arrays[tensors.readout][:count], self.arrays[tensors.output][:count]
        if not unbuffered and not any(self._shapes[name] is None for name in tensors.inputs):
            run = _bound_call(self.sessions[stage], binding)
            self._bound[stage, count, probabilities] = _BoundStage(run, self.readout, self.outputs)

    def grow(self, capacity: int, count: int, names: Sequence[str]) -> None:
        """Reallocate for `capacity` samples and copy the first `count` rows of the named tensors."""
        old = {name: self.arrays[name] for name in names}
        self.capacity = capacity
        self.arrays = {}
        self._bound.clear()
        for name, array in old.items():
            self.put(name, array[:count])

    def _bind(self, stage: int, count: int, *, probabilities: bool) -> tuple[Any, dict[str, int]]:
        """Bind a stage to the first `count` samples; return the binding and the indices of outputs without a buffer."""
        tensors = self._plan.stages[stage]
        binding = self.sessions[stage].io_binding()
        for name in tensors.inputs:
            array = self.arrays[name]
            binding.bind_input(name, _CPU, 0, array.dtype.type, (count, *array.shape[1:]), array.ctypes.data)
        temperature = self._temperature_arrays[stage]
        binding.bind_input(TEMPERATURE_INPUT, _CPU, 0, np.float32, (1,), temperature.ctypes.data)
        unbuffered: dict[str, int] = {}
        names = tensors.outputs if probabilities else tensors.outputs[:-1]
        for index, name in enumerate(names):
            buffer = self._buffer(name)
            if buffer is None:
                binding.bind_output(name, _CPU)
                unbuffered[name] = index
            else:
                shape = (count, *buffer.shape[1:])
                binding.bind_output(name, _CPU, 0, buffer.dtype.type, shape, buffer.ctypes.data)
        return binding, unbuffered

    def _buffer(self, name: str) -> _Array | None:
        """Return the buffer of a tensor, allocated if needed; None if its size is not known before the run."""
        shape = self._shapes[name]
        if shape is None:
            return None
        if name not in self.arrays:
            self.arrays[name] = _aligned((self.capacity, *shape), np.dtype(self._plan.specs[name].dtype))
        return self.arrays[name]


def _bound_call(session: ort.InferenceSession, binding: ort.IOBinding) -> Callable[[], None]:
    """Return a call that does the same as `session.run_with_iobinding(binding)`.

    It omits the checks for graph capture on WebGPU, which ONNX Runtime 1.32 makes before every run and no session here
    needs. They take 7 us, because a stage leaves the processor's caches without Python's code and data.
    """
    try:
        return functools.partial(session._sess.run_with_iobinding, binding._iobinding, None)  # noqa: SLF001
    except AttributeError:  # another version of ONNX Runtime
        return functools.partial(session.run_with_iobinding, binding)


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of one sample, or None if a size is only known after the run."""
    shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape[1:]]
    return None if -1 in shape else tuple(shape)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Array:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
