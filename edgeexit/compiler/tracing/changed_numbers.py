"""Changes Python numbers and arrays, to find out whether a result depends on them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np


class Change(NamedTuple):
    """Replaces numbers by others."""

    number: Callable[[Any], Any] | None
    """Takes and returns an int, a float, a complex or an array of them; None keeps them."""
    boolean: bool | None = None
    """Replaces every bool; None keeps them."""

    def __call__(self, value: Any) -> Any:
        """Change a number, an array, or nested lists of numbers, as `item`, `numpy` and `tolist` return them."""
        if isinstance(value, list):
            return [self(each) for each in value]
        if isinstance(value, bool):
            return value if self.boolean is None else self.boolean
        if not isinstance(value, np.ndarray):
            return value if self.number is None else type(value)(self.number(value))
        if value.dtype == np.bool_:
            return value.copy() if self.boolean is None else np.full_like(value, self.boolean)
        return value.copy() if self.number is None else np.asarray(self.number(value)).astype(value.dtype)


UNCHANGED: Final = Change(None)
_CHANGES: Final = (
    Change(lambda value: value + 17, boolean=True),
    Change(lambda value: -value - 17, boolean=False),
    Change(lambda value: value * 1000 + 1001),
    Change(lambda value: value * 0),
)
_MAX_SIZES: Final = 6


def changes(shapes: Iterable[Sequence[int]]) -> tuple[Change, ...]:
    """Return changes to numbers above and below every usual threshold, and to the sizes in `shapes`.

    The sizes find a comparison with a size, as in `mask.sum() == mask.numel()`.
    """
    sizes = {size for shape in shapes for size in (*shape, math.prod(shape))}
    return _CHANGES + tuple(Change(_constant(size)) for size in sorted(sizes)[-_MAX_SIZES:])


def _constant(size: int) -> Callable[[Any], Any]:
    return lambda value: value * 0 + size
