"""The files that a deployment copies: their paths on the device, their SHA-256, and their local content."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.bundle import MANIFEST, POLICY, PROFILE, SIGNATURE, Bundle
from edgeexit.files import sha256_of

_PUBLIC: Final = 0o644
_NOT_IN_MANIFEST: Final = (MANIFEST, POLICY, PROFILE, SIGNATURE)
"""Files of a bundle that its manifest does not list; all but the manifest are optional."""


class PayloadFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to copy."""

    name: str
    """Path in the release, for example `bundle/stage0.onnx`; for a wheel, path in the deployment's folder."""
    sha256: str
    size: int
    mode: int = _PUBLIC
    source: Path | None = None
    """Local file. If `source` and `content` are None, the file exists only in the device's current release."""
    content: bytes | None = None
    """The content, if there is no local file."""

    @property
    def is_wheel(self) -> bool:
        """True for a file of an environment, False for a file of a release."""
        return self.name.startswith("wheels/")


def bundle_files(bundle: Bundle) -> list[PayloadFile]:
    """Return all files of a bundle."""
    names = sorted({*bundle.manifest.files, *(name for name in _NOT_IN_MANIFEST if (bundle.path / name).exists())})
    return [local_file(f"bundle/{name}", bundle.path / name) for name in names]


def local_file(name: str, source: Path, *, mode: int = _PUBLIC) -> PayloadFile:
    """Return a local file; `name` is its path on the device."""
    return PayloadFile(name=name, sha256=sha256_of(source), size=source.stat().st_size, mode=mode, source=source)


def text_file(name: str, content: str) -> PayloadFile:
    """Return a file with this content; `name` is its path on the device."""
    data = content.encode()
    return PayloadFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), content=data)


def content_key(files: Iterable[PayloadFile], *settings: str) -> str:
    """Return a hash of a release's files and settings; an interrupted copy continues if its hash is the same."""
    lines = sorted(f"{file.sha256} {file.name}" for file in files)
    return hashlib.sha256("\n".join([*lines, *settings]).encode()).hexdigest()[:16]
