"""What goes into the model: parsing `--input`, reading specifications off examples, and drawing random samples."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.graph import BATCH
from edgeexit.datasets import LABELS, Inputs, check_inputs
from edgeexit.errors import CompileError

_DTYPES: Final = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_INPUT = re.compile(r"(?P<name>.+?):(?P<shape>[^:]*)(?::(?P<dtype>[a-z]+\d*))?")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_RANDOM_SAMPLES: Final = 32
_MAX_SAMPLES: Final = 256
WORD_SIZE: Final = 8
"""Random samples' size in a dimension that is only known at run time."""

Arrays = dict[str, npt.NDArray[Any]]


def parse_inputs(texts: Sequence[str], *, on_warning: Callable[[str], None] = lambda _: None) -> tuple[TensorSpec, ...]:
    """Parse `NAME:SHAPE[:DTYPE]` texts, e.g. `image:batch,1,32,32:float32`.

    SHAPE is comma separated; the first dimension is the batch, and `on_warning` is told of a number there; a word
    elsewhere is a dimension known only at run time. DTYPE is float32 when it is not given. Raises CompileError.
    """
    specs = tuple(_parse(text, on_warning) for text in texts)
    for index, spec in enumerate(specs):
        if any(spec.name == earlier.name for earlier in specs[:index]):
            raise CompileError(f"input '{spec.name}' is given twice")
    return specs


def specs_of(example: Inputs, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Return the specifications of those arrays of an example that `names` names; its labels are none of them.

    Raises CompileError for an array without a batch dimension, or of a type that no tensor has.
    """
    specs = []
    for name in names:
        if name not in example or (name == LABELS and len(names) > 1):
            continue
        array = example[name]
        if array.ndim == 0:
            raise CompileError(f"samples: '{name}' is a scalar; the first dimension of every input is the batch")
        if array.dtype.name not in _DTYPES:
            raise CompileError(f"samples: '{name}' is {array.dtype}, which is none of {', '.join(_DTYPES)}; convert it")
        specs.append(TensorSpec(name=name, dtype=array.dtype.name, shape=(BATCH, *array.shape[1:])))
    return tuple(specs)


def take_samples(example: Inputs, specs: Sequence[TensorSpec]) -> Arrays:
    """Return up to 256 samples of an example that fits `specs`. Raises DataError where it does not."""
    checked = check_inputs(example, specs, where="samples")
    return {name: array[:_MAX_SAMPLES] for name, array in checked.items()}


def draw_samples(
    specs: Sequence[TensorSpec], *, sizes: Mapping[str, int] | None = None, count: int = _RANDOM_SAMPLES
) -> Arrays:
    """Draw random samples, the same for the same specifications.

    Floats are standard normal. Integers and booleans are 0 or 1, valid as token ids and as masks; the first of every
    sample is 1, so that no mask is empty. `sizes` says how long a dimension known only at run time is to be.
    """
    rng = np.random.default_rng(0)
    samples: Arrays = {}
    for spec in specs:
        shape = [count]
        shape += [(sizes or {}).get(size, WORD_SIZE) if isinstance(size, str) else size for size in spec.shape[1:]]
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            samples[spec.name] = rng.standard_normal(shape).astype(dtype)
        else:
            drawn = rng.integers(0, 2, size=shape)
            drawn[..., :1] = 1
            samples[spec.name] = drawn.astype(dtype)
    return samples


def repeat_to(samples: Inputs, count: int) -> Arrays:
    """Return the first `count` samples, from the first again where there are fewer."""
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in samples.items()}


def sizes_given(specs: Sequence[TensorSpec], given: Sequence[TensorSpec]) -> dict[str, int]:
    """Return the sizes that `given` has for the words in a graph's own `specs`.

    Raises CompileError where `given` does not fit the graph.
    """
    sizes: dict[str, int] = {}
    own = {spec.name: spec for spec in specs}
    for spec in given:
        graph = own.get(spec.name)
        if graph is None:
            names = ", ".join(f"'{name}'" for name in own)
            raise CompileError(f"the model has no input '{spec.name}'; it has {names}")
        fits = spec.dtype == graph.dtype and len(spec.shape) == len(graph.shape)
        for size, has in zip(spec.shape[1:], graph.shape[1:], strict=False):
            if isinstance(has, str) and isinstance(size, int):
                sizes[has] = size
            fits = fits and (isinstance(has, str) or size == has)
        if not fits:
            raise CompileError(f"input '{spec.name}' is given as {_text(spec)} where the model takes {_text(graph)}")
    return sizes


def _parse(text: str, on_warning: Callable[[str], None]) -> TensorSpec:
    match = _INPUT.fullmatch(text)
    if match is None:
        raise CompileError(f"input '{text}' must be NAME:SHAPE[:DTYPE], e.g. image:batch,1,32,32:float32")
    dtype = match["dtype"] or "float32"
    if dtype not in _DTYPES:
        raise CompileError(f"input '{text}': dtype '{dtype}' is none of {', '.join(_DTYPES)}")
    sizes = [_parse_size(size.strip(), text) for size in match["shape"].split(",")]
    spec = TensorSpec(name=match["name"], dtype=dtype, shape=(BATCH, *sizes[1:]))
    if isinstance(sizes[0], int):
        free = ":".join([spec.name, ",".join(map(str, spec.shape)), *([dtype] if match["dtype"] else [])])
        on_warning(f"input '{spec.name}': the batch is always free, {sizes[0]} is not kept; write {free}")
    return spec


def _parse_size(size: str, text: str) -> int | str:
    if size.isdecimal() and int(size) > 0:
        return int(size)
    if _WORD.fullmatch(size):
        return size
    raise CompileError(f"input '{text}': dimension '{size}' is neither a number above 0 nor a word")


def _text(spec: TensorSpec) -> str:
    return f"{','.join(map(str, spec.shape))} {spec.dtype}"
