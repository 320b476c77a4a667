"""Finds the model that the user names: a factory, a saved program, a graph or a module at hand."""

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

from edgeexit.compiler.reasons import cause_of, quietly, reason_of
from edgeexit.errors import CompileError, DataError


class OnnxFile(NamedTuple):
    """An ONNX file and what is in it."""

    path: Path
    model: ir.Model


Loaded = torch.nn.Module | torch.export.ExportedProgram | OnnxFile


def load_source(source: str | Path | torch.nn.Module) -> tuple[str, Loaded]:
    """Return a name for the model and the model; the name is a file's stem or a Python module's last part.

    `source` is a module, `package.module:factory`, `path/file.py:factory` (a function without required arguments that
    returns a module, a module's class, or a module), a `.pt2` (torch.export.save) or an `.onnx` file whose outputs are
    the exits. Raises CompileError.
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


def load_labels(path: Path) -> tuple[str, ...]:
    """Read the names of the classes, one a line. Raises DataError."""
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise DataError(f"labels file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"labels file '{path}' is not UTF-8 text: {reason_of(error)}") from error
    if "" in labels:
        raise DataError(f"labels file '{path}': line {labels.index('') + 1} is empty; it needs one class name a line")
    return labels


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise CompileError(f"model file '{text}' does not exist")
    return path


def _load_onnx(path: Path) -> OnnxFile:
    try:
        with quietly():
            return OnnxFile(path, ir.load(path))
    except Exception as error:  # protobuf and onnx_ir raise classes of their own
        raise CompileError(f"model '{path}' is not a readable ONNX file: {reason_of(cause_of(error))}") from error


def _load_program(path: Path) -> torch.export.ExportedProgram:
    try:
        with quietly():
            return torch.export.load(path)
    except Exception as error:  # torch raises many classes here
        raise CompileError(f"model '{path}' is not a readable .pt2 file: {reason_of(error)}") from error


def _import_module(name: str, text: str) -> ModuleType:
    with _importable(Path.cwd()):
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever the user's module does
            raise CompileError(f"model '{text}': '{name}' cannot be imported: {reason_of(error)}") from error


def _import_file(path: Path, text: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CompileError(f"model '{text}': '{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with _importable(path.parent.resolve()):
        before = sys.modules.get(path.stem)
        sys.modules[path.stem] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever the user's module does
            del sys.modules[path.stem]
            if before is not None:
                sys.modules[path.stem] = before
            raise CompileError(f"model '{text}': '{path}' cannot be imported: {reason_of(error)}") from error
    return module


def _call_factory(module: ModuleType, name: str, text: str) -> torch.nn.Module:
    missing = object()
    factory: Any = getattr(module, name, missing)
    if factory is missing:
        raise CompileError(f"model '{text}': there is no '{name}' in '{module.__name__}'")
    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise CompileError(f"model '{text}': '{name}' is {type(factory).__name__}, not a function that makes a model")
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise CompileError(f"model '{text}': {name}() failed: {reason_of(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise CompileError(f"model '{text}': {name}() returned {type(made).__name__}, not a torch.nn.Module")
    return made


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules beside the user's be found, as `python` itself would."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
