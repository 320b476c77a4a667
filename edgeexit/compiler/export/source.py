"""Loads the model that the user names: a torch module, a factory of one, a `.pt2` file or an ONNX file."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx_ir as ir
import torch

from edgeexit.compiler.error_text import cause_of, reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.errors import CompileError, DataError


class OnnxFile(NamedTuple):
    """An ONNX file and the model in it."""

    path: Path
    model: ir.Model


Loaded = torch.nn.Module | torch.export.ExportedProgram | OnnxFile


def load_source(source: str | Path | torch.nn.Module) -> tuple[str, Loaded]:
    """Return the name of the model, and the model.

    `source` is a torch module, `package.module:factory`, `path/file.py:factory`, a `.pt2` file (torch.export.save), or
    an `.onnx` file whose outputs are the exits. A factory is a torch module, a class of torch modules, or a function
    that returns a torch module; the class or function takes no required arguments. The name is the class of the torch
    module, the stem of the file, or the last part of `package.module`.

    Raises CompileError if the model does not exist, cannot be read, or if the user's code fails.
    """
    if isinstance(source, torch.nn.Module):
        return type(source).__name__, source
    text = str(source)
    suffix = Path(text).suffix
    if suffix == ".onnx":
        return Path(text).stem, _load_onnx(_existing(text))
    if suffix == ".pt2":
        return Path(text).stem, _load_program(_existing(text))
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise CompileError(
            f"model '{text}' must be package.module:factory, path/file.py:factory, a .pt2 or an .onnx file"
        )
    if place.endswith(".py"):
        return Path(place).stem, _call_factory(_import_file(_existing(place), text), name, text)
    return place.rpartition(".")[2], _call_factory(_import_module(place, text), name, text)


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
    if not path.is_file():
        raise CompileError(f"model file '{text}' does not exist")
    return path


def _load_onnx(path: Path) -> OnnxFile:
    try:
        with silence_libraries():
            return OnnxFile(path, ir.load(path))
    except Exception as error:  # protobuf and onnx_ir raise unrelated classes
        raise CompileError(f"model '{path}' is not a readable ONNX file: {reason_of(cause_of(error))}") from error


def _load_program(path: Path) -> torch.export.ExportedProgram:
    try:
        with silence_libraries():
            return torch.export.load(path)
    except Exception as error:  # torch raises many classes here
        raise CompileError(f"model '{path}' is not a readable .pt2 file: {reason_of(error)}") from error


def _import_module(name: str, text: str) -> ModuleType:
    with _importable(Path.cwd()):
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:  # the user's module may raise anything
            raise CompileError(f"model '{text}': '{name}' cannot be imported: {reason_of(error)}") from error


def _import_file(path: Path, text: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CompileError(f"model '{text}': '{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with _importable(path.parent.resolve()):
        before = sys.modules.get(path.stem)
        sys.modules[path.stem] = module  # dataclasses look their module up here
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # the user's module may raise anything
            del sys.modules[path.stem]
            if before is not None:
                sys.modules[path.stem] = before
            raise CompileError(f"model '{text}': '{path}' cannot be imported: {reason_of(error)}") from error
    return module


def _call_factory(module: ModuleType, name: str, text: str) -> torch.nn.Module:
    missing = object()
    factory: Any = getattr(module, name, missing)
    if factory is missing:
        raise CompileError(f"model '{text}': '{module.__name__}' has no '{name}'")
    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise CompileError(f"model '{text}': '{name}' is {type(factory).__name__}, not a function that returns a model")
    try:
        model = factory()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise CompileError(f"model '{text}': {name}() failed: {reason_of(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise CompileError(f"model '{text}': {name}() returned {type(model).__name__}, not a torch.nn.Module")
    return model


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put a folder on the import path, so that the user's file can import its neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
