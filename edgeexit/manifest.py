"""The schema of a bundle's manifest: what the stages are, what flows between them, and the proof."""

from typing import Annotated, Final, Literal

import msgspec

from edgeexit.policies.document import Digest

SCHEMA: Final = 1
TEMPERATURE_INPUT: Final = "edgeexit.temperature"
"""Name of every stage's softmax temperature input, `[1] float32`."""
READOUT_SUFFIX: Final = ".readout"
"""An exit's readout `[B, 4] float32` is the output named after the exit, with this behind it."""

Task = Literal["classify"]
Precision = Literal["fp32"]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor's name, numpy dtype name and shape; a string stands for a dimension known only at run time."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def bytes_per_sample(self) -> int | None:
        """Bytes of one sample (the first dimension is the batch), or None where a dimension is not known."""
        import numpy as np  # noqa: PLC0415 - inspecting a manifest needs no arrays otherwise

        count = 1
        for size in self.shape[1:]:
            if isinstance(size, str):
                return None
            count *= size
        return count * np.dtype(self.dtype).itemsize


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: its graph file, and the tensors that go in and out besides readout and temperature."""

    name: str
    file: FileName
    exit: TensorSpec
    """The raw output of this stage's exit (logits `[B, C]`)."""
    inputs: tuple[str, ...]
    """The model's inputs that this stage reads."""
    carry_in: tuple[str, ...]
    """Tensors of earlier stages that this stage reads."""
    carry_out: tuple[TensorSpec, ...]
    """Tensors that this stage makes and later stages read; the first dimension of each is the batch."""
    macs: Annotated[int, msgspec.Meta(ge=0)]
    """Multiply-accumulates of one sample in convolutions and matrix products: the cost until there is a profile."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Composed stages against the whole model, every stage forced."""

    samples: int
    source: Literal["data", "random"]
    """`data`: samples that the user gave; `random`: drawn from a seed."""
    runtime: str
    absolute_tolerance: float
    relative_tolerance: float
    max_absolute_error: dict[str, float]
    """Per exit: the largest |composed - whole|."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json`: everything about a bundle but its policy and profile, which are made later."""

    schema: Literal[1] = SCHEMA
    model: str
    task: Task
    target: str
    precision: Precision
    opset: int
    inputs: tuple[TensorSpec, ...]
    classes: int
    stages: Annotated[tuple[StageSpec, ...], msgspec.Meta(min_length=2, max_length=64)]
    proof: Proof
    tools: dict[str, str]
    """Versions of what compiled it."""
    files: dict[FileName, Digest]
    """SHA-256 of every file that belongs to the bundle's identity."""
    labels: tuple[str, ...] | None = None
    """Names of the classes."""

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of the exits, shallow to deep."""
        return tuple(stage.exit.name for stage in self.stages)

    @property
    def macs(self) -> tuple[int, ...]:
        """[K] cumulative multiply-accumulates of leaving at each exit."""
        total, cumulative = 0, []
        for stage in self.stages:
            total += max(stage.macs, 1)  # a stage of cheap operators alone still costs something
            cumulative.append(total)
        return tuple(cumulative)
