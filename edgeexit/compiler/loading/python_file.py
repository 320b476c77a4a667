"""Imports the Python file that the user names, even if it is named like a module that it imports."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from edgeexit.compiler.error_text import reason_of
from edgeexit.errors import CompileError


@contextmanager
def imported_file(path: Path, text: str) -> Iterator[ModuleType]:
    """Import a Python file; while the block runs, its folder is on the import path.

    `import NAME` with the file's own name imports another module of that name if there is one, else the file.

    Args:
        path: the file.
        text: the model as the user named it, for the error.

    Raises CompileError if the file is not Python or raises an error.

    """
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    # A name that nothing imports. Dataclasses look their module up in sys.modules, so it stays there.
    name = f"edgeexit_model_{digest}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CompileError(f"model '{text}': '{path.name}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    finder = _OtherModuleFinder(path, module)
    sys.meta_path.insert(0, finder)
    sys.modules[name] = module
    try:
        with importable(path.parent):
            try:
                spec.loader.exec_module(module)
            except (Exception, SystemExit) as error:  # the user's module may raise anything
                del sys.modules[name]
                raise CompileError(f"model '{text}': '{path}' cannot be imported: {reason_of(error)}") from error
            yield module
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put a folder on the import path, so that the user's file can import its neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


class _OtherModuleFinder(MetaPathFinder):
    """Finds another module with the name of the user's file, and the file itself if there is no other."""

    def __init__(self, path: Path, module: ModuleType) -> None:
        self._path = path
        self._module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._path.stem or path is not None:
            return None
        for entry in sys.path:
            spec = PathFinder.find_spec(fullname, [entry], target)
            if spec is None:
                continue
            if spec.origin is None or Path(spec.origin).resolve() != self._path:
                return spec
            folder = self._path.with_suffix("")
            if folder.is_dir():  # a package without __init__.py beside the file, which Python would not find
                return self._namespace(fullname, folder)
        return importlib.util.spec_from_loader(fullname, _LoadedModule(self._module))

    @staticmethod
    def _namespace(name: str, folder: Path) -> ModuleSpec:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


class _LoadedModule(Loader):
    """Loads a module that exists already, under another name."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has replaced it
