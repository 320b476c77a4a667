"""Takes or draws the samples that the compiler runs the model on, and divides them into batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets import Inputs, check_inputs

_RANDOM_SAMPLES: Final = 32
_MAX_SAMPLES: Final = 256
DEFAULT_DIMENSION_SIZE: Final = 8
"""Size that random samples have in a symbolic dimension without a given size."""

Arrays = dict[str, npt.NDArray[Any]]


def take_samples(example: Inputs, specs: Sequence[TensorSpec]) -> Arrays:
    """Return the inputs of the first 256 samples of an example. Raises DataError if it does not match `specs`."""
    checked = check_inputs(example, specs, where="--example samples")
    return {name: array[:_MAX_SAMPLES] for name, array in checked.items()}


def draw_samples(
    specs: Sequence[TensorSpec], *, sizes: Mapping[str, int] | None = None, count: int = _RANDOM_SAMPLES
) -> Arrays:
    """Draw `count` random samples, input name -> [count, ...]; equal specifications give equal samples.

    Floats are standard normal. Integers and booleans are 0 or 1, valid as token ids and as masks; the first element
    along the last axis is 1, so that no mask of tokens is empty. `sizes` maps symbolic dimensions to sizes; the others
    have size 8.
    """
    rng = np.random.default_rng(0)
    samples: Arrays = {}
    for spec in specs:
        shape = [count]
        shape += [
            (sizes or {}).get(size, DEFAULT_DIMENSION_SIZE) if isinstance(size, str) else size
            for size in spec.shape[1:]
        ]
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            samples[spec.name] = rng.standard_normal(shape).astype(dtype)
        else:
            drawn = rng.integers(0, 2, size=shape)
            drawn[..., :1] = 1
            samples[spec.name] = drawn.astype(dtype)
    return samples


def repeat_to(samples: Inputs, count: int) -> Arrays:
    """Return the first `count` samples, and start again at the first one if there are fewer."""
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in samples.items()}


def in_batches(samples: Inputs, *, size: int, until: int | None = None) -> Iterator[Arrays]:
    """Yield the first `until` samples (default: all) in batches of at most `size`."""
    count = len(next(iter(samples.values()))) if until is None else until
    for first in range(0, count, size):
        yield {name: array[first : min(first + size, count)] for name, array in samples.items()}
