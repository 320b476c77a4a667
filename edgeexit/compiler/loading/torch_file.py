"""Loads the files that torch writes: exported programs and TorchScript. Checkpoints are refused, not unpickled."""

import zipfile
from pathlib import Path
from typing import Final

import torch

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.loading.program_file import load_program
from edgeexit.compiler.loading.untrusted_file import find_file_operator, untrusted_file
from edgeexit.errors import CompileError

PROGRAM_SUFFIX: Final = ".pt2"
CHECKPOINT_SUFFIXES: Final = (".bin", ".ckpt", ".pkl", ".pth", ".pth.tar", ".safetensors", ".tar")
SUFFIXES: Final = (PROGRAM_SUFFIX, ".pt", ".torchscript", ".ts", ".jit", *CHECKPOINT_SUFFIXES)
"""Suffixes of the files that `load_torch_file` takes; the contents decide, not the suffix."""

_SCRIPT_FILES: Final = ("/constants.pkl", "/code/")
_PROGRAM_FILES: Final = ("/archive_format", "serialized_exported_program.json")


def load_torch_file(path: Path, *, trust_pickle: bool = False) -> torch.nn.Module | torch.export.ExportedProgram:
    """Load a file of torch.export.save or torch.jit.save.

    Raises CompileError for a file that is neither, or cannot be read, or needs `trust_pickle`.
    """
    names = _names_in(path)
    is_program = any(name.endswith(_PROGRAM_FILES) for name in names)
    if is_program or (path.suffix == PROGRAM_SUFFIX and not names):
        return load_program(path, trust_pickle=trust_pickle)
    if _is_script(names):
        return _load_script(path, trust_pickle=trust_pickle)
    raise CompileError(
        f"model '{path}' is neither a program (torch.export.save) nor TorchScript (torch.jit.save); a checkpoint has "
        "only weights: write a function that builds the network and loads them, and give path/file.py:function"
    )


def _load_script(path: Path, *, trust_pickle: bool) -> torch.nn.Module:
    """Load TorchScript. Its pickles hold only tensors and the file's own classes, whose `__setstate__` is called."""
    try:
        operator = None if trust_pickle else _file_operator_in(path)
        if operator is None:
            with silence_libraries():
                return torch.jit.load(path, map_location="cpu")  # type: ignore[no-any-return,no-untyped-call]
    except Exception as error:  # torch raises many classes here
        raise CompileError(f"model '{path}' is not a readable TorchScript file: {reason_of(error)}") from error
    raise untrusted_file(path, f"code that calls '{operator}'")


def _file_operator_in(path: Path) -> str | None:
    """Return an operator in the code of a TorchScript file that reads or writes files."""
    reader = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001 - as torch.jit.load reads it
    code = [reader.get_record(name).decode() for name in reader.get_all_records() if name.endswith(".py")]
    return next((found for text in code if (found := find_file_operator(text)) is not None), None)


def _names_in(path: Path) -> list[str]:
    """Return the names of the files in a zip archive, none for another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def _is_script(names: list[str]) -> bool:
    return all(any(part in name for name in names) for part in _SCRIPT_FILES)
