"""A batch in ONNX Runtime: buffers that stages read and write by I/O binding, so that nothing is copied between."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.backends.base import Rows, StagedBatch
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, Manifest, TensorSpec
from edgeexit.errors import InferenceError
from edgeexit.policies.readout import COLUMNS

_ALIGNMENT: Final = 64  # bytes; a cache line, and what the widest vector instructions like best
_CPU: Final = "cpu"

_Any = npt.NDArray[Any]
Dimensions = tuple[tuple[str, int], ...]
"""The sizes behind the words in shapes, the batch's apart, by word."""


class StageTensors(NamedTuple):
    """What one stage reads and makes, looked up at every call and so worked out once."""

    name: str
    reads: tuple[str, ...]
    """Model inputs and carries."""
    makes: tuple[str, ...]
    """Raw output, readout, carries, and the probabilities at last."""
    output: str
    readout: str
    probabilities: str
    kept: tuple[str, ...]
    """Tensors there after this stage that a later one reads."""


class StageTensorPlan(NamedTuple):
    """A bundle as its batches see it."""

    stages: tuple[StageTensors, ...]
    specs: Mapping[str, TensorSpec]
    """Of inputs, outputs, readouts, probabilities and carries, by name."""
    words: tuple[tuple[str, str, int], ...]
    """Dimensions that the manifest has words for, the batch's apart: the word, and an input's name and axis."""


def make_tensor_plan(manifest: Manifest) -> StageTensorPlan:
    """Return the plan of a bundle."""
    specs = {spec.name: spec for spec in manifest.inputs}
    stages = []
    for k, stage in enumerate(manifest.stages):
        output, batch = stage.exit.name, stage.exit.shape[0]
        readout = TensorSpec(name=output + READOUT_SUFFIX, dtype="float32", shape=(batch, len(COLUMNS)))
        probabilities = TensorSpec(name=output + PROBABILITIES_SUFFIX, dtype="float32", shape=(batch, manifest.classes))
        made = {spec.name: spec for spec in (stage.exit, readout, *stage.carry_out, probabilities)}
        specs |= made
        stages.append(
            StageTensors(
                name=stage.name,
                reads=(*stage.inputs, *stage.carry_in),
                makes=tuple(made),
                output=output,
                readout=readout.name,
                probabilities=probabilities.name,
                kept=tuple(spec.name for spec in manifest.live_after(k)),
            )
        )
    words = {
        word: (word, spec.name, axis)
        for spec in manifest.inputs
        for axis, word in enumerate(spec.shape)
        if axis and isinstance(word, str)
    }
    return StageTensorPlan(tuple(stages), specs, tuple(words.values()))


def dimensions_of(plan: StageTensorPlan, inputs: Mapping[str, _Any]) -> Dimensions:
    """Return the sizes of a batch's dimensions that the manifest has words for."""
    return tuple([(word, inputs[name].shape[axis]) for word, name, axis in plan.words])


class _Bound(NamedTuple):
    """A stage bound to a number of samples, and what to look at when it has run."""

    binding: Any
    readout: _Any
    """[B, 4]."""
    outputs: _Any
    """[B, C] or [B, C, H, W]."""


class Buffers:
    """Memory for batches of up to `capacity` samples of the same dimensions, and the bindings of stages to it.

    A binding is made once for each stage and number of samples, and used again: at batch 1 a stage costs one call. A
    tensor whose size only the run tells has no buffer: ONNX Runtime makes it, and its bindings are made every time.

    Attributes:
        sessions: those that run the stages.
        dimensions: sizes behind the words in shapes.
        capacity: most samples.
        arrays: name -> [capacity, ...], the samples in front; [B, ...] for a tensor without a buffer.
        temperatures: [K] of [1].
        readout: [B, 4] of the stage that ran last.
        outputs: [B, C] or [B, C, H, W] of the stage that ran last.

    """

    def __init__(
        self, plan: StageTensorPlan, sessions: Sequence[ort.InferenceSession], dimensions: Dimensions, capacity: int
    ) -> None:
        self.dimensions = dimensions
        self.capacity = capacity
        self.arrays: dict[str, _Any] = {}
        self.temperatures = [np.ones(1, dtype=np.float32) for _ in plan.stages]
        self._plan = plan
        self.sessions = sessions
        self._shapes = {name: _shape(spec, dict(dimensions)) for name, spec in plan.specs.items()}
        self._bound: dict[tuple[int, int, bool], _Bound] = {}
        self.readout = self.outputs = np.empty((0, 0), dtype=np.float32)

    def put(self, name: str, rows: _Any, *, at: int = 0) -> None:
        """Write samples of a tensor from place `at` on."""
        array = self._buffer(name)
        if array is not None:
            array[at : at + len(rows)] = rows
        elif at:
            self.arrays[name] = np.concatenate([self.arrays[name][:at], rows])
        else:
            self.arrays[name] = np.ascontiguousarray(rows)

    def run(self, stage: int, count: int, *, probabilities: bool) -> None:
        """Run a stage on the first `count` samples. ONNX Runtime's own errors are let through."""
        bound = self._bound.get((stage, count, probabilities))
        if bound is None:
            self._run_unbound(stage, count, probabilities=probabilities)
        else:
            self.sessions[stage].run_with_iobinding(bound.binding)
            self.readout, self.outputs = bound.readout, bound.outputs

    def _run_unbound(self, stage: int, count: int, *, probabilities: bool) -> None:
        """Bind a stage and run it; keep the binding where it can serve again."""
        tensors = self._plan.stages[stage]
        binding, loose = self._bind(stage, count, probabilities=probabilities)
        self.sessions[stage].run_with_iobinding(binding)
        if loose:
            made = binding.get_outputs()
            self.arrays |= {name: made[place].numpy() for name, place in loose.items()}
        self.readout, self.outputs = self.arrays[tensors.readout][:count], self.arrays[tensors.output][:count]
        if not loose and not any(self._shapes[name] is None for name in tensors.reads):
            self._bound[stage, count, probabilities] = _Bound(binding, self.readout, self.outputs)

    def grow(self, capacity: int, count: int, names: Sequence[str]) -> None:
        """Make room for `capacity` samples; the first `count` of the named tensors stay."""
        kept = {name: self.arrays[name] for name in names}
        self.capacity = capacity
        self.arrays = {}
        self._bound.clear()
        for name, array in kept.items():
            self.put(name, array[:count])

    def _bind(self, stage: int, count: int, *, probabilities: bool) -> tuple[Any, dict[str, int]]:
        """Bind a stage to the first `count` samples; return the binding and which output without a buffer is where."""
        tensors = self._plan.stages[stage]
        binding = self.sessions[stage].io_binding()
        for name in tensors.reads:
            array = self.arrays[name]
            binding.bind_input(name, _CPU, 0, array.dtype.type, (count, *array.shape[1:]), array.ctypes.data)
        temperature = self.temperatures[stage]
        binding.bind_input(TEMPERATURE_INPUT, _CPU, 0, np.float32, (1,), temperature.ctypes.data)
        loose: dict[str, int] = {}
        made = tensors.makes if probabilities else tensors.makes[:-1]
        for place, name in enumerate(made):
            buffer = self._buffer(name)
            if buffer is None:
                binding.bind_output(name, _CPU)
                loose[name] = place
            else:
                shape = (count, *buffer.shape[1:])
                binding.bind_output(name, _CPU, 0, buffer.dtype.type, shape, buffer.ctypes.data)
        return binding, loose

    def _buffer(self, name: str) -> _Any | None:
        """Return the buffer of a tensor, made now if need be, or None where its size is not known."""
        shape = self._shapes[name]
        if shape is None:
            return None
        if name not in self.arrays:
            self.arrays[name] = _aligned((self.capacity, *shape), np.dtype(self._plan.specs[name].dtype))
        return self.arrays[name]


class OnnxRuntimeBatch:
    """Samples on their way through the stages, in buffers that go back to their pool at the end."""

    def __init__(
        self,
        plan: StageTensorPlan,
        buffers: Buffers,
        count: int,
        *,
        probabilities: bool,
        give_back: Callable[[Buffers], None],
    ) -> None:
        self._plan = plan
        self._buffers = buffers
        self._closed = False
        self._count = count
        self._probabilities = probabilities
        self._give_back = give_back
        self._stage = -1

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4], or [B, 4 + C]. Raises InferenceError."""
        self._stage += 1
        buffers, tensors, count = self._buffers, self._plan.stages[self._stage], self._count
        buffers.temperatures[self._stage][0] = temperature
        try:
            buffers.run(self._stage, count, probabilities=self._probabilities)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            shapes = ((name, (count, *buffers.arrays[name].shape[1:])) for name in tensors.reads)
            given = ", ".join(f"'{name}' {'x'.join(map(str, shape))}" for name, shape in shapes)
            raise InferenceError(f"{tensors.name} does not run on {given}: {str(error).splitlines()[0]}") from error
        if self._probabilities:
            return np.concatenate([buffers.readout, buffers.arrays[tensors.probabilities][:count]], axis=1)
        return buffers.readout

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last."""
        return self._buffers.outputs

    def select_rows(self, rows: Rows) -> None:
        """Go on with these rows alone, in this order."""
        count = len(rows)
        moved = np.flatnonzero(rows != np.arange(count))
        for name in self._plan.stages[self._stage].kept:
            array = self._buffers.arrays[name]
            array[moved] = array[rows[moved]]
        self._count = count

    def join(self, other: StagedBatch) -> None:
        """Take in the samples of another batch, behind its own, and close that one."""
        assert isinstance(other, OnnxRuntimeBatch)  # noqa: S101 - the caller's promise
        kept = self._plan.stages[self._stage].kept
        count = self._count + other._count  # noqa: SLF001 - one of its own
        if count > self._buffers.capacity:
            self._buffers.grow(max(count, 2 * self._buffers.capacity), self._count, kept)
        for name in kept:
            self._buffers.put(name, other._buffers.arrays[name][: other._count], at=self._count)  # noqa: SLF001
        self._count = count
        other.__exit__(None, None, None)

    def __enter__(self) -> "OnnxRuntimeBatch":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the buffers back; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._give_back(self._buffers)


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return a sample's shape, or None where the sizes do not tell it."""
    shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape[1:]]
    return None if -1 in shape else tuple(shape)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Any:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
