"""Loads exported programs (`.pt2`) without running code that is stored in the file."""

import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.loading.program_code import find_code
from edgeexit.compiler.loading.untrusted_file import untrusted_file
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
            raise untrusted_file(
                path, f"a pickle that uses '{match[1]}'" if match else "a pickle of other objects"
            ) from error
        raise CompileError(f"model '{path}' is not a readable .pt2 file: {reason_of(error)}") from error
    if not trust_pickle:
        program._guards_code = []  # noqa: SLF001 - Python code that runs when the program is called
    return program


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
            raise untrusted_file(path, "compiled code")
        if _PICKLED_OBJECT in name:
            raise untrusted_file(path, f"the pickle '{name}'")
    for program in programs:
        found = find_code(program)
        if found is not None:
            raise untrusted_file(path, f"code in place of a name, size or operator ({found[:60]!r})")


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
