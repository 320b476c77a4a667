"""The files that a deployment copies: their paths on the device, their SHA-256, and their local content.

Only regular files travel. A link could lead to any file of the build machine, for example to a private key, so it is an
error. Each file is opened once: what was hashed and checked is what is sent, even if the file is replaced meanwhile.
"""

import errno
import hashlib
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import IO, Final

import msgspec

from edgeexit.bundle import MANIFEST, Bundle
from edgeexit.bundle.layout import POLICY, PROFILE, PROFILE_SIGNATURE, SIGNATURE
from edgeexit.errors import DeployError
from edgeexit.files import open_regular

_PUBLIC: Final = 0o644
_OPTIONAL: Final = (POLICY, PROFILE, SIGNATURE, PROFILE_SIGNATURE)
"""Files of a bundle that its manifest does not list."""
_CHUNK_BYTES: Final = 1 << 18


class LocalFile:
    """A regular file that stays open as long as this object exists.

    Attributes:
        path: where it was opened, for messages.
        size: its size then, in bytes; if it grows, the rest is not read.

    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the content from `offset` on. Raises DeployError if the file has become shorter."""
        while offset < self.size:
            chunk = os.pread(self._descriptor, min(self.size - offset, _CHUNK_BYTES), offset)
            if not chunk:
                raise DeployError(f"'{self.path}' became shorter while it was copied; run the same command again")
            yield chunk
            offset += len(chunk)

    def open(self) -> IO[bytes]:
        """Return a file object at the start of the same file."""
        opened = os.fdopen(os.dup(self._descriptor), "rb")
        opened.seek(0)
        return opened


class PayloadFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to copy."""

    name: str
    """Path in the release, for example `bundle/stage0.onnx`; for a wheel, path in the deployment's folder."""
    sha256: str
    size: int
    mode: int = _PUBLIC
    source: LocalFile | None = None
    """Local file. If `source` and `content` are None, the file exists only in the device's current release."""
    content: bytes | None = None
    """The content, if there is no local file."""

    @property
    def is_wheel(self) -> bool:
        """True for a file of an environment, False for a file of a release."""
        return self.name.startswith("wheels/")


def bundle_files(bundle: Bundle) -> list[PayloadFile]:
    """Return the files of a bundle: those that its manifest lists, and policy, profile and signatures.

    Other files in its folder are not part of the bundle. Raises DeployError if a file is not regular, or has changed
    since the bundle was opened.
    """
    optional = (name for name in _OPTIONAL if os.path.lexists(bundle.path / name))
    names = sorted({MANIFEST, *bundle.manifest.files, *optional})
    files = [local_file(f"bundle/{name}", bundle.path, name) for name in names]
    expected = {MANIFEST: bundle.digest, **{name: spec.sha256 for name, spec in bundle.manifest.files.items()}}
    for name, file in zip(names, files, strict=True):
        if expected.get(name, file.sha256) != file.sha256:
            raise DeployError(f"bundle '{bundle.path}': {name} has changed meanwhile; run the same command again")
    return files


def local_file(name: str, folder: Path, relative: str, *, mode: int = _PUBLIC) -> PayloadFile:
    """Return a local file; `name` is its path on the device, `relative` its path in `folder`.

    `folder` may be a link; a link in `relative` is refused. Raises DeployError if the file is not a regular file, or if
    its name is not printable text.
    """
    path = folder / relative
    if not name.isprintable():
        raise DeployError(f"the file name {str(path)!a} cannot be copied: it contains a control character; rename it")
    try:
        source = LocalFile(path, _open_below(folder, PurePath(relative)))
        digest = hashlib.sha256()
        for chunk in source.chunks():
            digest.update(chunk)
    except OSError as error:
        raise DeployError(
            f"'{path}' cannot be copied: {error.strerror}; only regular files are sent to a device"
        ) from error
    return PayloadFile(name=name, sha256=digest.hexdigest(), size=source.size, mode=mode, source=source)


def _open_below(folder: Path, relative: PurePath) -> int:
    """Open a regular file without following a link below `folder`. Raises OSError."""
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise OSError(errno.EINVAL, "its path leaves the folder", str(relative))
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    parent = os.open(folder, flags)
    try:
        for part in relative.parts[:-1]:
            try:
                child = os.open(part, flags | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise OSError(errno.ELOOP, f"'{part}' is a link, or not a folder", part) from error
            os.close(parent)
            parent = child
        return open_regular(Path(relative.name), dir_fd=parent)
    finally:
        os.close(parent)


def text_file(name: str, content: str) -> PayloadFile:
    """Return a file with this content; `name` is its path on the device."""
    data = content.encode()
    return PayloadFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), content=data)


def content_key(files: Iterable[PayloadFile], *settings: str) -> str:
    """Return a hash of a release's files and settings; an interrupted copy continues if its hash is the same."""
    lines = sorted(f"{file.sha256} {file.name}" for file in files)
    return hashlib.sha256("\n".join([*lines, *settings]).encode()).hexdigest()[:16]
