"""Loads exported programs (`.pt2`) without running code that is stored in the file."""

import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils._sympy import functions as torch_functions

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.errors import CompileError

_MODELS: Final = re.compile(r"(?:.*/)?models/(?P<name>[^/]+)\.json")
_PROGRAM: Final = "model"
"""Name of the program that torch.export.save writes."""
_OLD_PROGRAM: Final = "serialized_exported_program.json"
"""Where torch 2.7 and older store the program."""
_COMPILED: Final = "data/aotinductor/"
"""Folder of compiled code in an archive."""
_PICKLED_OBJECT: Final = "opaque_obj_"
"""Prefix of the constants that torch unpickles without any check."""
_FORCE_SAFE: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_FORCE_UNSAFE: Final = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_REFUSED_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]+)")

_NAME: Final = re.compile(r"[\w.]*")
"""Names of values. torch writes them into Python code."""
_NAME_KEYS: Final = frozenset({"as_name", "name"})
_EXPRESSION: Final = re.compile(r"(?:[\w\s.,()+\-*/%<>=!&|~]|'[\w.]*')*")
"""Sizes. torch evaluates them as Python expressions."""
_SIZE_KEYS: Final = frozenset({"as_expr", "expr_str"})
_SYMBOL: Final = re.compile(r"[a-z]+\d+|\d\w*")
_PROPERTIES: Final = frozenset(
    {"even", "finite", "integer", "negative", "nonnegative", "positive", "precision", "real"}
)
_FUNCTIONS: Final = frozenset(
    {name for name, each in vars(torch_functions).items() if isinstance(each, type) and not name.startswith("_")}
    | {"Abs", "Add", "And", "Eq", "False", "Float", "Ge", "Gt", "Integer", "Le", "Lt", "Max", "Min", "Mod", "Mul", "Ne"}
    | {
        "Not",
        "Or",
        "Piecewise",
        "Pow",
        "Rational",
        "Symbol",
        "True",
        "ceiling",
        "false",
        "floor",
        "inf",
        "int_oo",
        "log",
        "oo",
        "sqrt",
        "true",
    }
)


def load_program(path: Path, *, trust_pickle: bool = False) -> torch.export.ExportedProgram:
    """Load an exported program.

    torch.export.load runs code: it unpickles what is not plain tensors, and evaluates names and sizes as Python. Unless
    `trust_pickle` is True, this function loads only archives that need neither.

    Raises CompileError if the file is not a readable program, or needs `trust_pickle`.
    """
    if not trust_pickle:
        _check_archive(path)
    try:
        with silence_libraries(), contextlib.nullcontext() if trust_pickle else _weights_only():
            program = torch.export.load(path)
    except Exception as error:  # torch raises many classes here
        refused = next((each for each in _chain(error) if isinstance(each, pickle.UnpicklingError)), None)
        if refused is not None and not trust_pickle and zipfile.is_zipfile(path):
            match = _REFUSED_GLOBAL.search(str(refused))
            raise _untrusted(
                path, f"a pickle that uses '{match[1]}'" if match else "a pickle of other objects"
            ) from error
        raise CompileError(f"model '{path}' is not a readable .pt2 file: {reason_of(error)}") from error
    if not trust_pickle:
        program._guards_code = []  # noqa: SLF001 - Python code that runs when the program is called
    return program


def _untrusted(path: Path, what: str) -> CompileError:
    return CompileError(
        f"model '{path}' contains {what}, and loading that can run any code on this machine; if you trust the file's "
        "author, give --trust-pickle (CompileOptions.trust_pickle)"
    )


def _check_archive(path: Path) -> None:
    """Raise CompileError for an archive with compiled code, pickles without check, or code in place of names and sizes.

    The remaining pickles are checked while they are loaded.
    """
    try:
        names, programs = _read_archive(path)
    except Exception as error:  # torch and zipfile raise many classes here
        raise CompileError(f"model '{path}' is not a readable .pt2 file: {reason_of(error)}") from error
    if not programs and any(_COMPILED in name for name in names):
        raise CompileError(
            f"model '{path}' contains compiled code of AOTInductor, not a program; write it with torch.export.save"
        )
    models = sorted({match["name"] for name in names if (match := _MODELS.fullmatch(name))})
    if models and _PROGRAM not in models:
        raise CompileError(
            f"model '{path}' contains no program '{_PROGRAM}', but {', '.join(models)}; write one program with "
            "torch.export.save"
        )
    for name in names:
        if _COMPILED in name:
            raise _untrusted(path, "compiled code")
        if _PICKLED_OBJECT in name:
            raise _untrusted(path, f"the pickle '{name}'")
    for program in programs:
        found = _find_code(program)
        if found is not None:
            raise _untrusted(path, f"code in place of a name or size ({found[:60]!r})")


def _read_archive(path: Path) -> tuple[Sequence[str], list[Any]]:
    """Return the names of the files in an archive, and the JSON of each program, read as torch reads them."""
    names: list[str] = []
    programs = []
    with contextlib.suppress(RuntimeError):  # the file is not an archive that torch's own reader opens
        reader = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001 - as torch.export.load reads it
        names += [str(name) for name in reader.get_all_records()]
        programs += [json.loads(reader.get_record(name)) for name in names if _MODELS.fullmatch(name)]
    with zipfile.ZipFile(path) as archive:
        names += archive.namelist()
        programs += [json.loads(archive.read(name)) for name in archive.namelist() if name == _OLD_PROGRAM]
    return names, programs


def _find_code(value: Any, key: str = "") -> str | None:
    """Return the first text of a program that torch would evaluate, and that is not a plain name or size."""
    texts: Iterable[Any] = ()
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, str):
        texts = [value] if key in _NAME_KEYS | _SIZE_KEYS else ()
    elif key == "range_constraints":
        texts = value
    elif isinstance(value, dict) and key != "metadata":  # the metadata are stack traces
        parts = value.items()
    elif isinstance(value, list):
        parts = [(key, part) for part in value]
    for text in texts:
        if not (_NAME.fullmatch(text) if key in _NAME_KEYS else _is_size(text)):
            return str(text)
    return next((found for name, part in parts if (found := _find_code(part, name)) is not None), None)


def _is_size(text: str) -> bool:
    words = re.findall(r"[A-Za-z_0-9]+", text)
    return bool(_EXPRESSION.fullmatch(text)) and all(
        _SYMBOL.fullmatch(word) or word in _FUNCTIONS or word in _PROPERTIES for word in words
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch.load refuse everything but tensors and plain containers, even where torch asks for the opposite."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE_SAFE, _FORCE_UNSAFE)}
    os.environ[_FORCE_SAFE] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCE_SAFE]
        os.environ.update({name: value for name, value in before.items() if value is not None})
