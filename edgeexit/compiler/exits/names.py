"""Matches the names and patterns of `--exits` and `--companion` with the names of a model's outputs."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from edgeexit.errors import CompileError

MIN_EXITS: Final = 2
"""A model with early exits has at least one of them, and the final exit."""
_WILDCARDS: Final = frozenset("*?[")
_MAX_LISTED: Final = 20


def match_names(patterns: Sequence[str], names: Sequence[str], *, what: str = "exit") -> tuple[str, ...]:
    """Return the names that the patterns select, in the order of the patterns.

    A pattern is a name, or has wildcards (`*`, `?`, `[...]`) and selects all matching names that are not selected yet,
    in the model's order. `what` is what error messages call a name.

    Raises CompileError for a name that is unknown or given twice, and for a pattern without a match.
    """
    selected: list[str] = []
    for pattern in patterns:
        if pattern in names:
            if pattern in selected:
                raise CompileError(f"{what} '{pattern}' is given twice; give each name once, shallow to deep")
            selected.append(pattern)
            continue
        matches = [name for name in names if fnmatchcase(name, pattern)] if _WILDCARDS & set(pattern) else []
        if not matches:
            raise CompileError(f"there is no {what} '{pattern}'; {_suggestion(pattern, names)}")
        selected += [name for name in matches if name not in selected]
    return tuple(selected)


def match_exits(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the exits that the patterns select. Raises CompileError as `match_names` does, and for fewer than two."""
    exits = match_names(patterns, names)
    if len(exits) < MIN_EXITS:
        known = listed([f"'{name}'" for name in names])
        raise CompileError(f"exit '{exits[0]}' is the only one given; give at least 2 of {known}")
    return exits


def listed(texts: Sequence[str]) -> str:
    """Return texts as one line, at most 20 of them."""
    more = len(texts) - _MAX_LISTED
    return ", ".join(texts[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _suggestion(pattern: str, names: Sequence[str]) -> str:
    known = "the model has " + listed([f"'{name}'" for name in names])
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"'{pattern}' holds several outputs, select them with '{pattern}.*'; {known}"
    close = difflib.get_close_matches(pattern, names, n=1)
    return f"did you mean '{close[0]}'? {known[0].upper()}{known[1:]}" if close else known
