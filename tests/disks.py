"""Disks for tests: a small one that can be filled, and one that becomes read-only."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MOUNT = shutil.which("mount")


@contextmanager
def small_disk(path: Path, *, kilobytes: int = 64) -> Iterator[Path]:
    """Mount a tmpfs at `path`; skip the test where that is not allowed."""
    if os.geteuid() != 0 or _MOUNT is None:
        pytest.skip("only root can mount a small disk")
    path.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs"]
    mounted = subprocess.run([_MOUNT, *options, str(path)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, *, read_only: bool) -> None:
    """Make a mounted disk read-only, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(path)], check=True)


def fill(path: Path) -> Path:
    """Fill a small disk; return the file that fills it."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 1024):
                pass
        except OSError:
            pass
    return filler
