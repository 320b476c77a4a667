"""The schema of `manifest.json`: the model, its stages, the tensors between them, and the proof."""

import json
from collections import Counter
from typing import Annotated, Final, Literal

import msgspec

from edgeexit.bundle.layout import (
    GOLDEN,
    MANIFEST,
    MAX_GOLDEN_BYTES,
    MAX_GRAPH_BYTES,
    POLICY,
    PROFILE,
    PROFILE_SIGNATURE,
    SIGNATURE,
)
from edgeexit.policies.document import Digest

SCHEMA: Final = 1
MAX_CLASSES: Final = 2**24
"""Readouts hold the predicted class as a float32, which represents smaller integers exactly."""
MAX_FILES: Final = 256
MAX_DIMENSION: Final = 2**40
"""Max size of a dimension, and max bytes of a file: far above any real one, and safe to multiply."""
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
DtypeName = Annotated[str, msgspec.Meta(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128))\Z")]
"""Name of a numpy dtype that a tensor may have."""
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Name, numpy dtype and shape of a tensor. A string in the shape is a symbolic dimension."""

    name: str
    dtype: DtypeName
    shape: tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_DIMENSION)] | str, ...]

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


class FileSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the bundle. Programs read no more bytes than `size`, and use none of them if the SHA-256 differs."""

    sha256: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_DIMENSION)]
    """In bytes."""


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
    macs: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
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
    classes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLASSES)]
    """Number of classes."""
    stages: Annotated[tuple[StageSpec, ...], msgspec.Meta(min_length=2, max_length=64)]
    proof: Proof
    tool_versions: dict[str, str]
    """Name of a compiler or library that produced the bundle -> its version."""
    files: Annotated[dict[FileName, FileSpec], msgspec.Meta(max_length=MAX_FILES)]
    """Name of every file that defines the bundle -> its SHA-256 and size."""
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
        """Raise ValueError if the stages or files contradict each other."""
        self._check_names()
        self._check_sizes()
        self._check_shapes()
        self._check_flow()
        expected = [(name, spec.dtype, spec.shape) for name, spec in self.stages[0].companions.items()]
        for stage in self.stages:
            if [(name, spec.dtype, spec.shape) for name, spec in stage.companions.items()] != expected:
                raise ValueError(f"{stage.name} and {self.stages[0].name} have different companions")

    def _check_names(self) -> None:
        for what, names in (
            ("stage name", [stage.name for stage in self.stages]),
            ("exit name", [stage.exit.name for stage in self.stages]),
            ("input name", [spec.name for spec in self.inputs]),
            ("file name (letter case aside)", [name.casefold() for name in self.files]),
        ):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise ValueError(f"{what} '{repeated[0]}' is used twice")
        for name in (MANIFEST, POLICY, PROFILE, SIGNATURE, PROFILE_SIGNATURE):
            if name in {file.casefold() for file in self.files}:
                raise ValueError(f"{name} cannot be one of the files")

    def _check_sizes(self) -> None:
        limits = {stage.file: MAX_GRAPH_BYTES for stage in self.stages} | {GOLDEN: MAX_GOLDEN_BYTES}
        for name, spec in self.files.items():
            if name in limits and spec.size > limits[name]:
                raise ValueError(f"{name} of {spec.size:,} bytes is larger than the {limits[name]:,} bytes allowed")

    def _check_shapes(self) -> None:
        """Raise ValueError for a tensor without a batch dimension, and for exits that do not fit the task."""
        carries = [spec for stage in self.stages for spec in (*stage.carry_out, *stage.companions.values())]
        for spec in (*self.inputs, *carries):
            if not spec.shape:
                raise ValueError(f"the shape of '{spec.name}' has no batch dimension")
        rank = 4 if self.has_maps else 2
        for stage in self.stages:
            shape = stage.exit.shape
            if len(shape) != rank or (isinstance(shape[1], int) and shape[1] != self.classes):
                raise ValueError(
                    f"exit '{stage.exit.name}' has shape {list(shape)}, which is not {self.task} into {self.classes} "
                    "classes"
                )

    def _check_flow(self) -> None:
        """Raise ValueError if a stage reads a tensor that nothing produces before it."""
        inputs, produced = {spec.name for spec in self.inputs}, set[str]()
        for stage in self.stages:
            missing = [name for name in stage.inputs if name not in inputs]
            missing += [name for name in stage.carry_in if name not in produced]
            if missing:
                raise ValueError(f"{stage.name} reads '{missing[0]}', which no input or earlier stage provides")
            produced |= {spec.name for spec in stage.carry_out}

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


def decode_manifest(content: bytes) -> Manifest:
    """Decode `manifest.json`. Raises ValueError that names the field, or the key that an object has twice."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        json.loads(content, object_pairs_hook=_require_unique_keys)  # msgspec would take the last of two equal keys
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    for stage in manifest.stages:
        if stage.file not in manifest.files:
            raise ValueError(f"it has no digest of {stage.file}")
    return manifest


def _require_unique_keys(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key '{repeated}' occurs twice in an object")
