"""The wheel of this checkout, and a folder of the aarch64 wheels that it needs, as they are published."""

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.arm.userland import call, exclusive, made_whole

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
    """Put the wheel and all that a device needs beside it into `folder`; what is published comes from the cache.

    Args:
        wheel: of EdgeExit.
        folder: the wheelhouse.
        cache: keeps the published wheels for as long as the wheel asks for the same.
        python: version of the device's Python, e.g. `3.11`.

    """
    asked = f"{_EXTRAS} {python} {_PLATFORMS}".encode() + b"\n".join(_requirements(wheel))
    kept = cache / f"wheels-{hashlib.sha256(asked).hexdigest()[:16]}"
    with exclusive(cache):
        if not kept.exists():
            with made_whole(kept) as fresh:
                platforms = [f"--platform={name}_aarch64" for name in _PLATFORMS]
                only = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
                call(*_PIP, "download", *only, *platforms, "--dest", fresh, f"{wheel}[{_EXTRAS}]")
                (fresh / wheel.name).unlink()
    folder.mkdir(exist_ok=True)
    for file in (*kept.iterdir(), wheel):
        shutil.copy(file, folder)


def _requirements(wheel: Path) -> list[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return [line for line in archive.read(metadata).splitlines() if line.startswith(b"Requires-Dist")]
