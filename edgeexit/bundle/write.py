"""Write a bundle: build it in a temporary folder, add the manifest, and move it to its place in one step."""

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.bundle.layout import MANIFEST
from edgeexit.bundle.manifest import FileSpec, Manifest
from edgeexit.errors import BundleError
from edgeexit.files import exchange, fsync_file, fsync_folder, sha256_of, write_atomic

_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a full disk, a quota or a size limit. Some libraries raise them without the name of the file."""


@contextlib.contextmanager
def bundle_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to build a bundle in, and move it to `path` when the block succeeds.

    The folder is created beside `path`. If `path` exists and `replace` is true, the old bundle stays in place until
    the block ends; on a system that can exchange two folders, `path` exists at every moment. If the block raises, the
    folder and all parent folders that this function created are removed.

    Raises BundleError if `path` exists and `replace` is false, if `path` exists and is not a bundle, or if a file
    cannot be written.
    """
    if path.exists() and not replace:
        raise BundleError(f"'{path}' exists already; give another name or --force to replace it")
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"'{path}' exists and is not a bundle, so it is not replaced; give another name")
    partial = f".{path.name}.partial-"
    try:
        with (
            _parent_folders(path.parent),
            tempfile.TemporaryDirectory(dir=path.parent, prefix=partial) as temporary,
        ):
            folder = Path(temporary) / "bundle"
            folder.mkdir()
            yield folder
            for file in folder.iterdir():
                fsync_file(file)
            fsync_folder(folder)
            if not (path.exists() and exchange(folder, path)):
                if path.exists():
                    path.replace(Path(temporary) / "replaced")
                folder.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        name = str(error.filename or "")
        if partial not in name and error.errno not in _DISK_FULL:
            raise
        name_in_error = f"bundle '{path}': {Path(name).name}" if partial in name else f"bundle '{path}'"
        raise BundleError(f"{name_in_error} cannot be written: {error.strerror}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` for the files in `folder`; `manifest.files` is replaced by their SHA-256 and sizes."""
    files = {file.name: FileSpec(sha256=sha256_of(file), size=file.stat().st_size) for file in sorted(folder.iterdir())}
    content = msgspec.json.encode(msgspec.structs.replace(manifest, files=files), order="deterministic")
    write_atomic(folder / MANIFEST, msgspec.json.format(content, indent=2) + b"\n")


@contextlib.contextmanager
def _parent_folders(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; if the block raises, remove those that were created and are empty."""
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in created:
            with contextlib.suppress(OSError):  # another program has put a file there
                parent.rmdir()
        raise
