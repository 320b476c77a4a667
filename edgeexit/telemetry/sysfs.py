"""Reads values from the files of /sys and /proc. A value that is missing, unreadable or invalid is None."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

_INDEX = re.compile(r"\d+")


def read_text(path: Path) -> str | None:
    """Return the text of a file without surrounding white space and NULs; None if it is empty or unreadable.

    Reading a suspended sensor fails with EAGAIN, a sensor on a failed bus with EIO, and a file that only root may read
    with EACCES.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\n") or None
    except OSError:
        return None


def read_number(path: Path, *, scale: float = 1, low: float = -math.inf, high: float = math.inf) -> float | None:
    """Return the number in a file times `scale`; None if there is no number or it is outside `low` to `high`."""
    text = read_text(path)
    if text is None:
        return None
    try:
        value = float(text) * scale
    except ValueError:
        return None
    return round(value, 3) if low <= value <= high and math.isfinite(value) else None


def sorted_by_number(paths: Iterable[Path]) -> list[Path]:
    """Return paths sorted by the numbers in their names, so that zone 10 follows zone 2."""
    return sorted(paths, key=lambda path: ([int(digits) for digits in _INDEX.findall(path.name)], str(path)))


def unique_name(name: str, taken: Iterable[str]) -> str:
    """Return `name`, with a number appended if it is already taken."""
    known, number, free = set(taken), 2, name
    while free in known:
        free, number = f"{name} {number}", number + 1
    return free
