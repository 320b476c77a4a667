"""A machine of its own processor: a private copy of the user-land, and processes in it that end with the tests.

Every process gets mounts and a process tree of its own, so that /proc and /dev are gone, and whatever it has started
is dead, when its first process ends, however it ends. The network is this machine's.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tests.arm.userland import ACCOUNT, ACCOUNT_ID

SLOW_S: Final = 240.0
"""Nothing here takes as long, under emulation and on a busy machine, unless it hangs."""

_ENTER: Final = """\
mount --rbind /dev "$ROOT/dev" || exit 125
"$@"
exit $?
"""
"""The shell stays: the kernel spares a tree's first process most signals, and what crashes is to die of it. /sys stays
empty: it would tell of this machine's processor, and onnxruntime for aarch64 crashes when it believes that."""


class Machine:
    """An aarch64 machine in a folder; paths that its methods take and return start at its own root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def copied_from(cls, userland: Path, root: Path) -> "Machine":
        """Make a machine whose disk is a copy, so that the user-land stays as it was made."""
        subprocess.run(["cp", "--archive", "--reflink=auto", userland, root], check=True)
        return cls(root)

    def outside(self, path: str) -> Path:
        """Return where this machine's `path` is found from outside."""
        return self.root / path.lstrip("/")

    def put(self, path: str, content: bytes | str, *, mode: int = 0o644) -> str:
        """Write a file that belongs to the account, and the folders above that are missing; return its path."""
        file = self.outside(path)
        self.make_folder(str(Path(path).parent))
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)
        _give(file)
        return path

    def put_folder(self, path: str, source: Path) -> str:
        """Copy a folder, as the account's own; return its path."""
        self.make_folder(str(Path(path).parent))
        subprocess.run(["cp", "--recursive", source, self.outside(path)], check=True)
        _give(self.outside(path), recursive=True)
        return path

    def make_folder(self, path: str) -> None:
        """Make a folder of the account's, and those above it that are missing."""
        missing = []
        folder = self.outside(path)
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir()
            _give(new)

    def run(self, *command: str, account: bool = True) -> str:
        """Run a program to its end, as the account or as root, and return its standard output.

        Raises AssertionError with what it wrote to standard error where it fails.

        """
        done = subprocess.run(
            self._command(command, account=account),
            env=self._environment(account=account),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SLOW_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)[:200]}: exit code {done.returncode}\n{done.stderr[-4000:]}"
        return done.stdout

    @contextmanager
    def running(self, *command: str, log: IO[bytes], account: bool = True) -> Iterator["Running"]:
        """Start a program that goes on; it and all that it has started are killed at the end of the block."""
        process = subprocess.Popen(
            self._command(command, account=account),
            env=self._environment(account=account),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        started = Running(process)
        try:
            yield started
        finally:
            started.kill()

    def _command(self, command: Sequence[str], *, account: bool) -> list[str]:
        # --kill-child: the kernel kills the process tree's first process when unshare goes, and so the whole tree.
        # setpriv: unshare itself is killed when the tests are.
        unshare = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            f"--mount-proc={self.root}/proc",
        ]
        identity = [f"--userspec={ACCOUNT_ID}:{ACCOUNT_ID}", "--groups="] if account else []
        return [*unshare, "sh", "-c", _ENTER, "sh", "chroot", *identity, str(self.root), *command]

    def _environment(self, *, account: bool) -> dict[str, str]:
        home = f"/home/{ACCOUNT}" if account else "/root"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "ROOT": str(self.root)}


class Running:
    """A program that goes on inside a machine."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._unshare = process

    def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self._unshare.wait(timeout=SLOW_S)

    def stop(self) -> int:
        """Ask it to end, by SIGTERM, and return its exit code."""
        self._signal(signal.SIGTERM)
        return self._unshare.wait(timeout=SLOW_S)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._unshare.poll() is not None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the program itself, once it is there; unshare and the shell around it take no part."""
        while not self.has_ended:
            if (program := _child(_child(self._unshare.pid))) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, number)
                return
            time.sleep(0.01)


def _child(pid: int | None) -> int | None:
    """Return the first child of a process, or None where it has none or is gone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _give(path: Path, *, recursive: bool = False) -> None:
    subprocess.run(
        ["chown", *(["--recursive"] if recursive else []), f"{ACCOUNT_ID}:{ACCOUNT_ID}", str(path)], check=True
    )
