"""Changes Python numbers and arrays, to find out whether a result depends on them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt


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
        return self._array(value)

    def _array(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Change an array. A view of a tensor becomes read-only, because a write would change the tensor."""
        changed: npt.NDArray[Any] = value.copy()
        if value.dtype == np.bool_ and self.boolean is not None:
            changed = np.full_like(value, self.boolean)
        elif value.dtype != np.bool_ and self.number is not None:
            wide = value.astype(np.int64) if value.dtype.kind in "iu" else value
            changed = np.asarray(self.number(wide)).astype(value.dtype, copy=True)
        changed.setflags(write=bool(value.flags.owndata))
        return changed


UNCHANGED: Final = Change(None)
_CHANGES: Final = (
    Change(lambda value: value + 17, boolean=True),
    Change(lambda value: -value - 17, boolean=False),
    Change(lambda value: value * 1000 + 1001),
    Change(lambda value: value * 0),
)
_MAX_SIZES: Final = 6


def changes(shapes: Iterable[Sequence[int]], numbers: Iterable[float] = ()) -> tuple[Change, ...]:
    """Return changes to numbers above and below every usual threshold, to the sizes in `shapes`, and to `numbers`.

    The sizes find a comparison with a size, as in `mask.sum() == mask.numel()`; the numbers, one as in `first == 101`.
    """
    sizes = {size for shape in shapes for size in (*shape, math.prod(shape))}
    wanted = dict.fromkeys([*sorted(sizes)[-_MAX_SIZES:], *numbers])
    return _CHANGES + tuple(Change(_constant(number)) for number in wanted)


def _constant(number: float) -> Callable[[Any], Any]:
    return lambda value: np.full_like(value, number) if isinstance(value, np.ndarray) else number
