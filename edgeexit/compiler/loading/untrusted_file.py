"""Refuses model files that can do more than compute while they are loaded."""

import re
from pathlib import Path
from typing import Final

from edgeexit.errors import CompileError

_FILE_OPERATOR: Final = re.compile(r"\b(?:torch|aten|debugprims)\s*\.\s*(?:save|from_file|load_tensor)\b")
"""The operators of torch that read or write files: aten::save, aten::from_file and debugprims::load_tensor."""


def find_file_operator(text: str) -> str | None:
    """Return the first operator in TorchScript code, or in the name of an operator, that reads or writes a file."""
    match = _FILE_OPERATOR.search(text)
    return None if match is None else match[0]


def untrusted_file(path: Path, what: str) -> CompileError:
    """Return the error for a file that contains `what`, and is not trusted."""
    return CompileError(
        f"model '{path}' contains {what}, and loading that can run any code on this machine; if you trust the file's "
        "author, give --trust-pickle (CompileOptions.trust_pickle)"
    )
