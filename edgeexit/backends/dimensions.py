"""Size ranges of the symbolic dimensions of a bundle, for backends that build engines for a range of shapes."""

import re
from collections.abc import Iterable
from typing import Final

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.errors import EngineError

SizeRange = tuple[int, int, int]
"""Min, optimal and max size of a dimension."""

_RANGE: Final = re.compile(r"(\d{1,9}),(\d{1,9}),(\d{1,9})")


def parse_range(option: str, text: str) -> SizeRange:
    """Parse MIN,OPT,MAX, the value of the command line option `option`. Raises EngineError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise EngineError(f"{option} '{text}' is not MIN,OPT,MAX, for example 1,8,32")
    return int(match[1]), int(match[2]), int(match[3])


def parse_dimensions(texts: Iterable[str]) -> dict[str, SizeRange]:
    """Parse values NAME=MIN,OPT,MAX of the command line option `--dimension`. Raises EngineError."""
    ranges: dict[str, SizeRange] = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        if not name or _RANGE.fullmatch(sizes) is None:
            raise EngineError(f"--dimension '{text}' is not NAME=MIN,OPT,MAX, for example length=1,16,128")
        if name in ranges:
            raise EngineError(f"--dimension '{name}' is given twice")
        ranges[name] = parse_range("--dimension", sizes)
    return ranges


def check_range(name: str, sizes: SizeRange) -> None:
    """Raise EngineError unless 1 <= min <= optimal <= max."""
    smallest, optimal, largest = sizes
    if not 1 <= smallest <= optimal <= largest:
        raise EngineError(
            f"the range of '{name}' is {smallest},{optimal},{largest}; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX"
        )


def symbolic_dimensions(tensors: Iterable[TensorSpec]) -> dict[str, str]:
    """Return symbolic dimension -> name of the first tensor that has it, for all dimensions except the batch."""
    found: dict[str, str] = {}
    for spec in tensors:
        for size in spec.shape[1:]:
            if isinstance(size, str):
                found.setdefault(size, spec.name)
    return found
