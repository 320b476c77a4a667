"""What a user can choose when a model is compiled."""

from collections.abc import Mapping, Sequence

import msgspec

from edgeexit.bundle.manifest import Precision, Task
from edgeexit.datasets import Dataset, Inputs


class CompileOptions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The options of `compile_bundle`; every field has a default."""

    target: str | None = None
    """Name of the target; default: the generic target of this machine."""
    inputs: Sequence[str] = ()
    """`NAME:SHAPE[:DTYPE]` of each model input; a torch module needs them or an `example`."""
    example: Inputs | Dataset | None = None
    """Real samples, input name -> [N, ...]: up to 256 prove the split, and the first 8 ship as golden samples.

    Default: the calibration data; without either, random samples are drawn."""
    exits: Sequence[str] = ()
    """Names of the outputs that are exits, shallow to deep; default: all outputs, in the model's order."""
    task: Task | None = None
    """`classification` for exits [B, C], `segmentation` for [B, C, H, W]; default: follows from the exits' rank."""
    precision: Precision = "fp32"
    """Precision of the stages; `int8` needs `calibration` or `example`."""
    calibration: Inputs | Dataset | None = None
    """Samples like those on the device, with or without labels; default: the example.

    They set the int8 ranges, and each exit is compared with fp32 on them."""
    keep_fp32: Sequence[str] = ()
    """Patterns (`*`, `?`, `[...]`) of nodes that stay in fp32: names of nodes, operators, outputs or weights."""
    max_loss: float = 0.01
    """Fraction of accuracy (without labels: of predictions) that an exit may lose without a warning."""
    dimensions: Mapping[str, tuple[int, int, int]] = {}
    """Symbolic dimension of an input -> (min, optimal, max) size; only for TensorRT targets."""
    name: str | None = None
    """Name of the model; default: the name of the source."""
    class_names: Sequence[str] | None = None
    """Names of the classes, in the order of the logits."""
