"""Small file systems that can be filled, made read-only, or aborted, for tests of a disk's faults."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

_FULL = b"\0" * 65536
_CORRECTED = 1
"""Exit status of e2fsck after it has corrected errors."""


def can_mount() -> str | None:
    """Return why nothing can be mounted here, or None."""
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    if shutil.which("mount") is None:
        return "the command mount is missing"
    return None


class SmallDisk:
    """A tmpfs of a few megabytes. Raises OSError if it cannot be mounted."""

    def __init__(self, folder: Path, *, size: str = "4m") -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "chaos", str(folder))

    def fill(self) -> None:
        """Write a file until the disk is full."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while file.write(_FULL):
                pass

    def free(self) -> None:
        """Remove that file."""
        (self.folder / "filler").unlink()

    def set_read_only(self, read_only: bool) -> None:  # noqa: FBT001 - the only parameter
        """Mount it again. Raises OSError while a file is open for writing."""
        _run("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(self.folder))

    def unmount(self) -> None:
        """Unmount it."""
        with contextlib.suppress(OSError):
            _run("umount", "-l", str(self.folder))


class AbortableDisk:
    """An ext4 in a file, which `abort` makes read-only as a write error of a card does, while files are open."""

    def __init__(self, folder: Path, *, megabytes: int = 16) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._image = folder.with_suffix(".ext4")
        with self._image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-O", "^has_journal", "-F", str(self._image))
        _run("tune2fs", "-O", "has_journal", str(self._image))
        self._mount()

    def abort(self) -> None:
        """Make it read-only until it is unmounted."""
        _run("mount", "-o", "remount,abort", str(self.folder))
        with contextlib.suppress(OSError):
            (self.folder / "notices-the-abort").touch()

    def repair(self) -> None:
        """Check it and mount it again, as an operator does. No process may use it. Raises OSError."""
        _run("umount", str(self.folder))
        _run("e2fsck", "-p", "-f", str(self._image), allowed=_CORRECTED)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Unmount it."""
        with contextlib.suppress(OSError):
            _run("umount", "-l", str(self.folder))


def _run(*command: str, allowed: int = 0) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - constant commands
    if done.returncode > allowed:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
