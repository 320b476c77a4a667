"""Finds code in the JSON of an exported program, where torch.export.load expects names, sizes and operators."""

import re
from typing import Any, Final

from torch.utils._sympy import functions as torch_functions

from edgeexit.compiler.loading.untrusted_file import find_file_operator

_NAME: Final = re.compile(r"[\w.]*")
"""Names of values. torch writes them into Python code."""
_NAME_KEYS: Final = frozenset({"as_name", "name"})
_OPERATOR_KEY: Final = "target"
_SIZE: Final = re.compile(r"(?:[\w\s.,()+\-*/%<>=!&|~]|'[\w.]*')*")
"""Sizes. torch evaluates them as Python expressions."""
_SIZE_KEYS: Final = frozenset({"as_expr", "expr_str"})
_SYMBOL: Final = re.compile(r"[a-z]+\d+|\d\w*")
_FUNCTIONS: Final = (
    "Abs Add And Eq False Float Ge Gt Integer Le Lt Max Min Mod Mul Ne Not Or Piecewise Pow Rational Symbol True "
    "ceiling false floor inf int_oo log oo sqrt true"
)
"""Functions and constants of sympy that sizes contain, beside those of torch."""
_PROPERTIES: Final = "even finite integer negative nonnegative positive precision real"
"""Properties of symbols."""
_WORDS: Final = frozenset(
    [*_FUNCTIONS.split(), *_PROPERTIES.split()]
    + [name for name, each in vars(torch_functions).items() if isinstance(each, type) and not name.startswith("_")]
)


def find_code(value: Any, key: str = "") -> str | None:
    """Return the first text of a program that torch would run, and that is not a plain name, size or operator."""
    texts: list[Any] = []
    parts: list[tuple[str, Any]] = []
    if isinstance(value, str):
        texts = [value] if key in {_OPERATOR_KEY, *_NAME_KEYS, *_SIZE_KEYS} else []
    elif key == "range_constraints":
        texts = list(value)
    elif isinstance(value, dict) and key != "metadata":  # the metadata are stack traces
        parts = list(value.items())
    elif isinstance(value, list):
        parts = [(key, part) for part in value]
    for text in texts:
        if not _is_plain(text, key):
            return str(text)
    return next((found for name, part in parts if (found := find_code(part, name)) is not None), None)


def _is_plain(text: str, key: str) -> bool:
    """Return True for a plain name or size, or for an operator that only computes."""
    if key == _OPERATOR_KEY:
        return find_file_operator(text) is None
    return bool(_NAME.fullmatch(text)) if key in _NAME_KEYS else _is_size(text)


def _is_size(text: str) -> bool:
    words = re.findall(r"\w+", text)
    return bool(_SIZE.fullmatch(text)) and all(_SYMBOL.fullmatch(word) or word in _WORDS for word in words)
