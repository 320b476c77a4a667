"""The wheel of this checkout, and a folder with the published aarch64 wheels of its dependencies."""

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.arm.userland import call, created_atomically, exclusive

_CHECKOUT: Final = Path(__file__).resolve().parents[2]
_EXTRAS: Final = "onnxruntime,endpoint"
_PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheel(folder: Path) -> Path:
    """Build the checkout's wheel into `folder` and return it."""
    call(*_PIP, "wheel", "--no-deps", "--wheel-dir", folder, _CHECKOUT)
    (wheel,) = folder.glob("edgeexit-*.whl")
    return wheel


def fill_wheelhouse(wheel: Path, folder: Path, *, cache: Path, python: str) -> None:
    """Put the wheel and its dependencies for a device into `folder`.

    Args:
        wheel: the wheel of EdgeExit.
        folder: the wheelhouse.
        cache: folder that keeps the downloaded wheels until the requirements of the wheel change.
        python: version of the device's Python, e.g. `3.11`.

    """
    requirements = f"{_EXTRAS} {python} {_PLATFORMS}".encode() + b"\n".join(_requirements(wheel))
    cached = cache / f"wheels-{hashlib.sha256(requirements).hexdigest()[:16]}"
    with exclusive(cache):
        if not cached.exists():
            with created_atomically(cached) as downloaded:
                platforms = [f"--platform={name}_aarch64" for name in _PLATFORMS]
                only = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
                call(*_PIP, "download", *only, *platforms, "--dest", downloaded, f"{wheel}[{_EXTRAS}]")
                (downloaded / wheel.name).unlink()
    folder.mkdir(exist_ok=True)
    for file in (*cached.iterdir(), wheel):
        shutil.copy(file, folder)


def _requirements(wheel: Path) -> list[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return [line for line in archive.read(metadata).splitlines() if line.startswith(b"Requires-Dist")]
