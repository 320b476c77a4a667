"""The options of a compilation."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from edgeexit.bundle.manifest import Precision, Task
from edgeexit.datasets import Dataset, Inputs

Exporter = Literal["auto", "export", "strict", "torchscript"]
"""`export` and `strict` are the two modes of torch.export; `auto` tries all three in this order."""


class CompileOptions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The options of `compile_bundle`; every field has a default."""

    target: str | None = None
    """Name of the target; default: the generic target of this machine."""
    inputs: Sequence[str] = ()
    """`NAME:SHAPE[:DTYPE]` of each model input; a torch module needs `inputs` or an `example`."""
    example: Inputs | Dataset | None = None
    """Real samples, input name -> [N, ...]. The proof uses at most 256; at most 8 ship as golden samples.

    Default: the calibration data, or random samples if that is not given either."""
    masks: Sequence[str] = ()
    """Names of the floating-point inputs that are attention masks: their values may be minus infinity."""
    exits: Sequence[str] = ()
    """Names of the outputs that are exits, or patterns (`*`, `?`, `[...]`); default: all outputs.

    The compiler sorts them by depth."""
    companions: Mapping[str, Sequence[str]] = {}
    """Companion name -> the outputs that are delivered beside the logits of each exit, in the order of the exits.

    They may have any numeric type, and the same shape [B, ...] at every exit. Patterns are allowed, as in `exits`. The
    other outputs are not delivered."""
    task: Task | None = None
    """`classification` for exits [B, C], `segmentation` for [B, C, H, W], `tagging` for logits per token [B, T, C].

    Default: the shapes of the exits decide, between classification and segmentation."""
    precision: Precision = "fp32"
    """Precision of the stages; `int8` needs `calibration` or `example`."""
    calibration: Inputs | Dataset | None = None
    """Samples like those on the device, input name -> [N, ...], with or without `labels`; default: the example.

    They set the int8 ranges. In fp16 and int8, each exit is compared with fp32 on them."""
    ignore_labels: Sequence[int] | None = None
    """Labels in the calibration data that do not count in the accuracy, as in `edgeexit.datasets.load_dataset`.

    Default: in segmentation 255, if the model has at most 255 classes. In maps, -100 never counts."""
    keep_fp32: Sequence[str] = ()
    """Patterns (`*`, `?`, `[...]`): a node stays in fp32 if its name or operator, or the name of an output or weight of
    the node, matches."""
    max_loss: float = 0.01
    """An exit gives a warning if its accuracy is lower than in fp32 by more than this fraction of the samples.

    Without labels: if more than this fraction of its predictions differ from fp32."""
    dimensions: Mapping[str, tuple[int, int, int]] = {}
    """Symbolic dimension of an input -> (min, optimal, max) size; only for TensorRT targets."""
    exporter: Exporter = "auto"
    """How a torch module is traced: with torch.export in its default or strict mode, or with TorchScript.

    `auto` tries them in this order. A trace that would be wrong for other data is an error."""
    trust_pickle: bool = False
    """Load a `.pt2` or `.pt` file even if that can run code that is stored in the file."""
    name: str | None = None
    """Name of the model; default: the name of the source."""
    class_names: Sequence[str] | None = None
    """Names of the classes, in the order of the logits."""
