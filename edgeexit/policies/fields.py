"""Checks of the fields of policies; each raises a ValueError that begins with the name of the field."""

from collections.abc import Sequence
from math import isfinite
from typing import Final

_MIN: Final = 1e-30
_MAX: Final = 1e30
"""Range of magnitudes for which sums of products stay finite in float32, the precision of scores on devices."""


def require_length(field: str, values: Sequence[object], length: int) -> None:
    """Raise ValueError unless `values` has `length` entries."""
    if len(values) != length:
        raise ValueError(f"{field} has {len(values)} entries where {length} are needed")


def require_numbers(field: str, values: Sequence[float]) -> None:
    """Raise ValueError unless all values are finite and in the usable range."""
    for value in values:
        if not (isfinite(value) and abs(value) <= _MAX):
            raise ValueError(f"{field} holds {value:g} where finite numbers from -{_MAX:g} to {_MAX:g} are needed")


def require_positive(field: str, values: Sequence[float]) -> None:
    """Raise ValueError unless all values are finite, above 0, and in the usable range."""
    for value in values:
        if not (isfinite(value) and _MIN <= value <= _MAX):
            raise ValueError(f"{field} holds {value:g} where finite numbers above 0, {_MIN:g} to {_MAX:g}, are needed")


def require_fractions(field: str, values: Sequence[float]) -> None:
    """Raise ValueError unless all values lie in [0, 1]."""
    for value in values:
        if not 0 <= value <= 1:  # false for NaN, too
            raise ValueError(f"{field} holds {value:g} where numbers from 0 to 1 are needed")


def require_classes(field: str, classes: int) -> None:
    """Raise ValueError for fewer than 2 classes."""
    if classes < 2:  # noqa: PLR2004 - one class needs no decision
        raise ValueError(f"{field} is for {classes} classes; at least 2 are needed")
