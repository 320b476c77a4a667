"""The schema of `manifest.json`: the model, its stages, the tensors between them, and the proof."""

from typing import Annotated, Final, Literal

import msgspec

from edgeexit.policies.document import Digest

SCHEMA: Final = 1
TEMPERATURE_INPUT: Final = "edgeexit.temperature"
"""Name of the input of every stage that takes the softmax temperature, `[1] float32`."""
READOUT_SUFFIX: Final = ".readout"
"""The output `<exit>.readout` of a stage is the readout of its exit, `[B, 4] float32`."""
PROBABILITIES_SUFFIX: Final = ".probabilities"
"""The output `<exit>.probabilities` of a stage has the probabilities of all classes, `[B, C] float32`."""
COMPANION_PREFIX: Final = "companion."
"""Files of `edgeexit run` and responses of the endpoint contain a companion as `companion.<name>`."""

Task = Literal["classification", "segmentation", "tagging"]
"""`classification`: logits `[B, C]`. `segmentation`: maps of logits `[B, C, H, W]`. `tagging`: logits of T tokens, as
maps `[B, C, 1, T]`. The readouts of maps are averages over the pixels or tokens."""
Precision = Literal["fp32", "fp16", "int8"]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Name, numpy dtype and shape of a tensor. A string in the shape is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def bytes_per_sample(self) -> int | None:
        """Bytes per sample (the first dimension is the batch), or None if another dimension is symbolic."""
        import numpy as np  # noqa: PLC0415 - numpy is not needed to read a manifest

        count = 1
        for size in self.shape[1:]:
            if isinstance(size, str):
                return None
            count *= size
        return count * np.dtype(self.dtype).itemsize


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: its ONNX file, and its inputs and outputs besides temperature, readout and probabilities."""

    name: FileName
    file: FileName
    exit: TensorSpec
    """The logits of this stage's exit: `[B, C]`; `[B, C, H, W]` for segmentation, `[B, C, 1, T]` for tagging."""
    inputs: tuple[str, ...]
    """Names of the model's inputs that this stage reads."""
    carry_in: tuple[str, ...]
    """Names of the tensors from earlier stages that this stage reads."""
    carry_out: tuple[TensorSpec, ...]
    """Tensors that this stage produces and later stages read. The first dimension of each is the batch."""
    macs: Annotated[int, msgspec.Meta(ge=0)]
    """Multiply-accumulates per sample of the stage's convolutions and matrix multiplications."""
    companions: dict[str, TensorSpec] = {}
    """Companion name -> the tensor `[B, ...]` that is delivered beside the logits of this stage's exit.

    Every stage has the same companions, with the same dtype and shape; only the names of the tensors differ."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of the composed stages with the full model, with early exit disabled."""

    samples: int
    source: Literal["data", "random"]
    """`data`: samples from the user. `random`: samples from a seeded generator."""
    runtime: str
    """Name and version of the runtime that executed both sides."""
    absolute_tolerance: float
    relative_tolerance: float
    max_absolute_error: dict[str, float]
    """Exit name -> max |logits of the stages - logits of the full model|."""
    max_companion_error: dict[str, float] = {}
    """Companion name -> the same for the companion at all exits; infinities and NaN, which are equal, do not count."""


class ExitFidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of the reduced precision on one exit. The fractions are of samples; of pixels or tokens for maps."""

    agreement: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Fraction of predictions that equal the prediction of the same exit in fp32."""
    accuracy: float | None = None
    """Accuracy in the bundle's precision; null if the data has no labels."""
    accuracy_fp32: float | None = None
    """Accuracy in fp32; null if the data has no labels."""


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of the stages in the bundle's precision with the fp32 model, on the calibration data."""

    samples: int
    exits: dict[str, ExitFidelity]


class BuildConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How TensorRT builds an engine from each stage. A range is (min, optimal, max) in the optimization profile."""

    batch: tuple[int, int, int]
    """Range of the batch size."""
    dimensions: dict[str, tuple[int, int, int]] = {}
    """Symbolic dimension of the inputs, other than the batch -> its range."""
    workspace_mb: Annotated[int, msgspec.Meta(ge=1)]
    dla_core: int | None = None
    """Index of the DLA core; null: TensorRT builds for the GPU."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json`: everything about a bundle except its policy and its latency profile."""

    schema: Literal[1] = SCHEMA
    model: str
    task: Task
    target: str
    precision: Precision
    opset: int
    inputs: tuple[TensorSpec, ...]
    classes: int
    """Number of classes."""
    stages: Annotated[tuple[StageSpec, ...], msgspec.Meta(min_length=2, max_length=64)]
    proof: Proof
    tool_versions: dict[str, str]
    """Name of a compiler or library that produced the bundle -> its version."""
    files: dict[FileName, Digest]
    """Name of every file that defines the bundle -> its SHA-256."""
    class_names: tuple[str, ...] | None = None
    keep_fp32: tuple[str, ...] = ()
    """Patterns of the names of the nodes that stay in fp32."""
    masks: tuple[str, ...] = ()
    """Names of the inputs that are attention masks: their values may be minus infinity."""
    fidelity: Fidelity | None = None
    """Null if the precision is fp32 or there was no calibration data."""
    build_config: BuildConfig | None = None
    """Null if the runtime of the target opens the ONNX files directly."""

    def __post_init__(self) -> None:
        """Raise ValueError if the stages have different companions."""
        expected = [(name, spec.dtype, spec.shape) for name, spec in self.stages[0].companions.items()]
        for stage in self.stages:
            if [(name, spec.dtype, spec.shape) for name, spec in stage.companions.items()] != expected:
                raise ValueError(f"{stage.name} and {self.stages[0].name} have different companions")

    @property
    def companions(self) -> tuple[str, ...]:
        """Names of the companion outputs."""
        return tuple(self.stages[0].companions)

    @property
    def has_maps(self) -> bool:
        """True if the exits have one prediction per pixel or token; False if they have one per sample."""
        return self.task != "classification"

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of the exits, from the shallowest to the deepest."""
        return tuple(stage.exit.name for stage in self.stages)

    @property
    def macs(self) -> tuple[int, ...]:
        """[K] cumulative multiply-accumulates per sample up to each exit, strictly increasing."""
        total, cumulative = 0, []
        for stage in self.stages:
            total += max(stage.macs, 1)  # a stage without conv or matmul still has a cost
            cumulative.append(total)
        return tuple(cumulative)

    def live_after(self, stage: int) -> tuple[TensorSpec, ...]:
        """Return the live tensors after `stage`: the model inputs, then the carries, that later stages still read."""
        produced = [spec for earlier in self.stages[: stage + 1] for spec in earlier.carry_out]
        read = {name for later in self.stages[stage + 1 :] for name in (*later.inputs, *later.carry_in)}
        return tuple(spec for spec in (*self.inputs, *produced) if spec.name in read)
