"""The schema of a bundle's manifest: what the stages are, what flows between them, and the proof."""

from typing import Annotated, Final, Literal

import msgspec

from edgeexit.policies.document import Digest

SCHEMA: Final = 1
TEMPERATURE_INPUT: Final = "edgeexit.temperature"
"""Name of every stage's softmax temperature input, `[1] float32`."""
READOUT_SUFFIX: Final = ".readout"
"""An exit's readout `[B, 4] float32` is the output named after the exit, with this behind it."""
PROBABILITIES_SUFFIX: Final = ".probabilities"
"""An exit's whole probability vector `[B, C] float32` is the output named after the exit, with this behind it."""

Task = Literal["classification", "segmentation"]
"""`classify`: logits [B, C]; `segment`: logits [B, C, H, W], whose readout averages over the pixels."""
Precision = Literal["fp32", "fp16", "int8"]
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

    name: FileName
    file: FileName
    exit: TensorSpec
    """The raw output of this stage's exit: logits `[B, C]`, or `[B, C, H, W]` to segment."""
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


class ExitFidelity(msgspec.Struct, frozen=True, kw_only=True):
    """What one exit lost by its precision; for segmentation, shares of pixels."""

    agreement: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share of answers that are those of the same exit in fp32."""
    accuracy: float | None = None
    """Share of right answers as shipped; null without labels."""
    accuracy_fp32: float | None = None
    """The same in fp32."""


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """The shipped stages against the model in fp32, on the calibration data."""

    samples: int
    exits: dict[str, ExitFidelity]


class BuildConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How TensorRT plans are built from the stages; each range is least, optimal and most."""

    batch: tuple[int, int, int]
    dimensions: dict[str, tuple[int, int, int]] = {}
    """Ranges of the other dimensions known only at run time, by the word that the inputs have for them."""
    workspace_mb: Annotated[int, msgspec.Meta(ge=1)]
    dla_core: int | None = None
    """Null: the GPU."""


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
    keep_fp32: tuple[str, ...] = ()
    """Patterns of the node names that were kept in fp32."""
    fidelity: Fidelity | None = None
    """What the precision cost; null in fp32, and without calibration data."""
    build_config: BuildConfig | None = None
    """How to build plans; null where the target's runtime opens the stages as they are."""

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

    def live_after(self, stage: int) -> tuple[TensorSpec, ...]:
        """Return what the runner keeps for the samples that go on after a stage: inputs, then carries, still read."""
        made = [spec for earlier in self.stages[: stage + 1] for spec in earlier.carry_out]
        read = {name for later in self.stages[stage + 1 :] for name in (*later.inputs, *later.carry_in)}
        return tuple(spec for spec in (*self.inputs, *made) if spec.name in read)
