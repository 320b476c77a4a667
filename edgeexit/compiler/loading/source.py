"""Loads the model that the user names: a torch module, a factory of one, a file that torch wrote, or an ONNX file."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx_ir as ir
import torch

from edgeexit.compiler.error_text import cause_of, reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.loading.python_file import importable, imported_file
from edgeexit.compiler.loading.torch_file import SUFFIXES, load_torch_file
from edgeexit.compiler.torch_module.unwrap import class_name_of, unwrap_module
from edgeexit.errors import CompileError, DataError
from edgeexit.files import is_git_lfs_pointer


class OnnxFile(NamedTuple):
    """An ONNX file and the model in it."""

    path: Path
    model: ir.Model


Loaded = torch.nn.Module | torch.export.ExportedProgram | OnnxFile


def load_source(source: str | Path | torch.nn.Module, *, trust_pickle: bool = False) -> tuple[str, Loaded]:
    """Return the name of the model, and the model, without wrappers such as DataParallel and torch.compile.

    `source` is a torch module, `package.module:factory`, `path/file.py:factory`, a file of torch.export.save (`.pt2`)
    or torch.jit.save (`.pt`), or an `.onnx` file whose outputs are the exits. A factory is a torch module, a class of
    torch modules, or a function that returns a torch module or an exported program; the class or function takes no
    required arguments. The name is the class of the torch module, the stem of the file, or the last part of
    `package.module`.

    Args:
        source: the model.
        trust_pickle: load a `.pt2` file even if that can run code that is stored in the file.

    Raises CompileError if the model does not exist, cannot be read, or if the user's code fails.

    """
    if isinstance(source, torch.nn.Module):
        module = unwrap_module(source)
        return class_name_of(module), module
    name, loaded = _load(str(source), trust_pickle=trust_pickle)
    return name, unwrap_module(loaded) if isinstance(loaded, torch.nn.Module) else loaded


def _load(text: str, *, trust_pickle: bool) -> tuple[str, Loaded]:
    if text.endswith(".onnx"):
        return Path(text).stem, _load_onnx(_existing(text))
    if text.endswith(SUFFIXES):
        return Path(text).stem, load_torch_file(_existing(text), trust_pickle=trust_pickle)
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise CompileError(
            f"model '{text}' must be package.module:factory, path/file.py:factory, a .pt2, a .pt or an .onnx file"
        )
    if place.endswith(".py"):
        return Path(place).stem, _load_from_file(_existing(place), name, text)
    return place.rpartition(".")[2], _load_from_module(place, name, text)


def load_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of the classes from a text file, one per line.

    Raises DataError if the file cannot be read, is not UTF-8, or has an empty line.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise DataError(f"class names file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"class names file '{path}' is not UTF-8 text: {reason_of(error)}") from error
    if "" in names:
        raise DataError(
            f"class names file '{path}': line {names.index('') + 1} is empty; write one class name per line"
        )
    return names


def _existing(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise CompileError(f"model '{text}' is a folder; give a file")
    if not path.is_file():
        raise CompileError(f"model file '{text}' does not exist")
    if not path.stat().st_size:
        raise CompileError(f"model file '{text}' is empty")
    if is_git_lfs_pointer(path):
        raise CompileError(f"model file '{text}' is a Git LFS pointer; run `git lfs pull`")
    return path


def _load_onnx(path: Path) -> OnnxFile:
    try:
        with silence_libraries():
            return OnnxFile(path, ir.load(path))
    except Exception as error:  # protobuf and onnx_ir raise unrelated classes
        raise CompileError(f"model '{path}' is not a readable ONNX file: {reason_of(cause_of(error))}") from error


def _load_from_module(place: str, name: str, text: str) -> torch.nn.Module | torch.export.ExportedProgram:
    with importable(Path.cwd()):
        try:
            module = importlib.import_module(place)
        except (Exception, SystemExit) as error:  # the user's module may raise anything
            raise CompileError(f"model '{text}': '{place}' cannot be imported: {reason_of(error)}") from error
        return _call_factory(module, name, place, text)


def _load_from_file(path: Path, name: str, text: str) -> torch.nn.Module | torch.export.ExportedProgram:
    with imported_file(path, text) as module:
        return _call_factory(module, name, path.stem, text)


def _call_factory(
    module: ModuleType, name: str, place: str, text: str
) -> torch.nn.Module | torch.export.ExportedProgram:
    missing = object()
    factory: Any = getattr(module, name, missing)
    if factory is missing:
        raise CompileError(f"model '{text}': '{place}' has no '{name}'")
    if isinstance(factory, torch.nn.Module | torch.export.ExportedProgram):
        return factory
    if not callable(factory):
        raise CompileError(f"model '{text}': '{name}' is {_text(factory)}, not a function that returns a model")
    try:
        model = factory()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise CompileError(f"model '{text}': {name}() failed: {reason_of(error)}") from error
    if not isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        raise CompileError(f"model '{text}': {name}() returned {_text(model)}, not a torch.nn.Module")
    return model


def _text(value: object) -> str:
    """Return the type of a value; of a state dict, also what to do."""
    if isinstance(value, Mapping) and any(isinstance(each, torch.Tensor | Mapping) for each in value.values()):
        return f"{type(value).__name__} of weights (build the network in the function, and call load_state_dict)"
    return type(value).__name__
