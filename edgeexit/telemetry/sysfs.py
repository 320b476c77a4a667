"""Numbers from the small files of /sys and /proc; whatever is missing, refused or nonsense is None."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

_INDEX = re.compile(r"\d+")


def read_text(path: Path) -> str | None:
    """Return a file's text without the white space and NULs around it, or None.

    A sensor that sleeps says EAGAIN, one whose bus fails says EIO, one for root only EACCES: all the same here.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\n") or None
    except OSError:
        return None


def read_number(path: Path, *, scale: float = 1, low: float = -math.inf, high: float = math.inf) -> float | None:
    """Return the number in a file times `scale`, or None where there is none from `low` to `high`."""
    text = read_text(path)
    if text is None:
        return None
    try:
        value = float(text) * scale
    except ValueError:
        return None
    return round(value, 3) if low <= value <= high and math.isfinite(value) else None


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Return paths by the numbers in their names, so that zone 10 comes after zone 2."""
    return sorted(paths, key=lambda path: ([int(digits) for digits in _INDEX.findall(path.name)], str(path)))


def unique(name: str, taken: Iterable[str]) -> str:
    """Return `name`, with a number behind it where it is taken already."""
    known, number, free = set(taken), 2, name
    while free in known:
        free, number = f"{name} {number}", number + 1
    return free
