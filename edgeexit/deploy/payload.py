"""What is copied to a device: every file with its digest, its place there, and where it is read here."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.bundle import MANIFEST, POLICY, PROFILE, SIGNATURE, Bundle
from edgeexit.files import sha256_of

_PUBLIC: Final = 0o644
_BESIDE: Final = (MANIFEST, POLICY, PROFILE, SIGNATURE)
"""Files of a bundle that its manifest does not name."""


class PayloadFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to be copied."""

    name: str
    """Its place in the release, as `bundle/stage0.onnx`; for a wheel, its place under the deployment's folder."""
    sha256: str
    size: int
    mode: int = _PUBLIC
    source: Path | None = None
    """Where it is here; None: only the device has it, in its current release."""
    content: bytes | None = None
    """What it holds, where it is no file here."""

    @property
    def is_wheel(self) -> bool:
        """Whether it belongs to an environment and to no release."""
        return self.name.startswith("wheels/")


def bundle_files(bundle: Bundle) -> list[PayloadFile]:
    """Return a verified bundle's files; the digests of those it verified are the manifest's."""
    names = sorted({*bundle.manifest.files, *(name for name in _BESIDE if (bundle.path / name).exists())})
    return [local_file(f"bundle/{name}", bundle.path / name) for name in names]


def local_file(name: str, source: Path, *, mode: int = _PUBLIC) -> PayloadFile:
    """Return a file of this machine under its name on the device."""
    return PayloadFile(name=name, sha256=sha256_of(source), size=source.stat().st_size, mode=mode, source=source)


def text_file(name: str, content: str) -> PayloadFile:
    """Return a file that is made here."""
    data = content.encode()
    return PayloadFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), content=data)


def content_key(files: Iterable[PayloadFile], *more: str) -> str:
    """Return the name of a release's content: the same files and words give the same key, so that a copy goes on."""
    lines = sorted(f"{file.sha256} {file.name}" for file in files)
    return hashlib.sha256("\n".join([*lines, *more]).encode()).hexdigest()[:16]
