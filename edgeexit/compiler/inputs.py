"""Parses `--input`, and derives the specifications of model inputs from an example."""

import re
from collections.abc import Sequence
from typing import Final

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.graph import BATCH
from edgeexit.datasets import LABELS, Inputs
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress

_DTYPES: Final = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_INPUT = re.compile(r"(?P<name>.+?):(?P<shape>[^:]*)(?::(?P<dtype>[A-Za-z_.]+\d*))?")
_DIMENSION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_inputs(texts: Sequence[str], *, progress: Progress = NO_PROGRESS) -> tuple[TensorSpec, ...]:
    """Parse `NAME:SHAPE[:DTYPE]` texts, e.g. `image:batch,1,32,32:float32`.

    SHAPE is comma separated. Its first dimension is the batch; a number there gives a warning, because the batch is
    always dynamic. Any other dimension is a size, or the name of a symbolic dimension. DTYPE defaults to float32.

    Raises CompileError for a text of another form, an unknown dtype, or a name that is given twice.
    """
    specs = tuple(_parse(text, progress) for text in texts)
    for index, spec in enumerate(specs):
        if any(spec.name == earlier.name for earlier in specs[:index]):
            raise CompileError(f"input '{spec.name}' is given twice; give each input once")
    return specs


def specs_of(example: Inputs, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Return the specifications of the arrays in an example that have one of the `names`.

    An array named `labels` counts as the labels of the example, and so is left out, unless it is the only name.

    Raises CompileError for an array without a batch dimension, or of a dtype that a model input cannot have.
    """
    specs = []
    for name in names:
        if name not in example or (name == LABELS and len(names) > 1):
            continue
        array = example[name]
        if array.ndim == 0:
            raise CompileError(f"samples: '{name}' is a scalar; the first dimension of every input is the batch")
        if array.dtype.name not in _DTYPES:
            raise CompileError(
                f"samples: '{name}' is {array.dtype}, which is not one of {', '.join(_DTYPES)}; convert it"
            )
        specs.append(TensorSpec(name=name, dtype=array.dtype.name, shape=(BATCH, *array.shape[1:])))
    return tuple(specs)


def sizes_given(specs: Sequence[TensorSpec], given: Sequence[TensorSpec]) -> dict[str, int]:
    """Return symbolic dimension -> size, for the symbolic dimensions of `specs` that have a size in `given`.

    Args:
        specs: the inputs of the graph.
        given: the inputs that the user described; all or some of the graph's inputs.

    Raises CompileError if `given` names another input, or contradicts the dtype or shape of one.

    """
    sizes: dict[str, int] = {}
    declared = {spec.name: spec for spec in specs}
    for spec in given:
        actual = declared.get(spec.name)
        if actual is None:
            names = ", ".join(f"'{name}'" for name in declared)
            raise CompileError(f"the model has no input '{spec.name}'; it has {names}")
        fits = spec.dtype == actual.dtype and len(spec.shape) == len(actual.shape)
        for given_size, actual_size in zip(spec.shape[1:], actual.shape[1:], strict=False):
            if isinstance(actual_size, str) and isinstance(given_size, int):
                sizes[actual_size] = given_size
            fits = fits and (isinstance(actual_size, str) or given_size == actual_size)
        if not fits:
            raise CompileError(f"input '{spec.name}' is given as {_text(spec)}, but the model takes {_text(actual)}")
    return sizes


def _parse(text: str, progress: Progress) -> TensorSpec:
    match = _INPUT.fullmatch(text)
    if match is None:
        raise CompileError(f"input '{text}' must be NAME:SHAPE[:DTYPE], e.g. image:batch,1,32,32:float32")
    dtype = match["dtype"] or "float32"
    if dtype == "bfloat16":
        progress.warning(f"input '{match['name']}': numpy has no bfloat16, so the input is float32")
        dtype = "float32"
    if dtype not in _DTYPES:
        raise CompileError(f"input '{text}': dtype '{dtype}' is not one of {', '.join(_DTYPES)}")
    sizes = [_parse_size(size.strip(), text) for size in match["shape"].split(",")]
    spec = TensorSpec(name=match["name"], dtype=dtype, shape=(BATCH, *sizes[1:]))
    if isinstance(sizes[0], int):
        suggestion = ":".join([spec.name, ",".join(map(str, spec.shape)), *([dtype] if match["dtype"] else [])])
        progress.warning(
            f"input '{spec.name}': the batch is always dynamic, so {sizes[0]} is ignored; write {suggestion}"
        )
    return spec


def _parse_size(size: str, text: str) -> int | str:
    if size.isdecimal() and int(size) > 0:
        return int(size)
    if _DIMENSION_NAME.fullmatch(size):
        return size
    raise CompileError(f"input '{text}': dimension '{size}' is neither a number above 0 nor a name")


def _text(spec: TensorSpec) -> str:
    return f"{','.join(map(str, spec.shape))} {spec.dtype}"
