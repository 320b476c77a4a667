"""An emulated machine: a private copy of the user-land, and processes in it that end with the tests.

Every process has its own mount and process namespaces. When its first process ends, the kernel unmounts /proc and /dev
and kills all processes that it started. The network is that of the host.
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
"""A timeout that is long enough for emulation on a busy machine."""

_ENTER: Final = """\
mount --rbind /dev "$ROOT/dev" || exit 125
"$@"
exit $?
"""
"""The shell, not the program, is the first process of the namespace: the kernel does not deliver most signals to a
first process, so a program that crashes would not end. /sys stays empty, because it describes the host's processor,
and onnxruntime for aarch64 crashes when it reads the description."""


class Machine:
    """An aarch64 machine in a folder; the paths of its methods start at its own root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def copied_from(cls, userland: Path, root: Path) -> "Machine":
        """Return a machine on a copy of the user-land, so that the user-land itself does not change."""
        subprocess.run(["cp", "--archive", "--reflink=auto", userland, root], check=True)
        return cls(root)

    def host_path(self, path: str) -> Path:
        """Return the path on the host of the machine's `path`."""
        return self.root / path.lstrip("/")

    def put(self, path: str, content: bytes | str, *, mode: int = 0o644) -> str:
        """Write a file that belongs to the account, create missing parent folders, and return its path."""
        file = self.host_path(path)
        self.create_folder(str(Path(path).parent))
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)
        _change_owner(file)
        return path

    def put_folder(self, path: str, source: Path) -> str:
        """Copy a folder, owned by the account; return its path."""
        self.create_folder(str(Path(path).parent))
        subprocess.run(["cp", "--recursive", source, self.host_path(path)], check=True)
        _change_owner(self.host_path(path), recursive=True)
        return path

    def create_folder(self, path: str) -> None:
        """Create a folder and its missing parents, owned by the account."""
        missing = []
        folder = self.host_path(path)
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir()
            _change_owner(new)

    def run(self, *command: str, account: bool = True) -> str:
        """Run a program as the account or as root, and return its standard output.

        Raises AssertionError with its standard error if the exit code is not 0.

        """
        result = subprocess.run(
            self._command(command, account=account),
            env=self._environment(account=account),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SLOW_S, check=False,
        )  # fmt: skip
        assert result.returncode == 0, (
            f"{' '.join(command)[:200]}: exit code {result.returncode}\n{result.stderr[-4000:]}"
        )
        return result.stdout

    @contextmanager
    def running(self, *command: str, log: IO[bytes], account: bool = True) -> Iterator["Running"]:
        """Start a program in the background; at the end of the block it and all its children are killed."""
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
        # --kill-child: when unshare ends, the kernel kills the first process of the namespace and so all of them.
        # setpriv: when the tests are killed, the kernel kills unshare.
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
    """A program that runs in the background inside a machine."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._unshare = process

    def kill(self) -> None:
        """Send SIGKILL and wait until the program has ended."""
        self._signal(signal.SIGKILL)
        self._unshare.wait(timeout=SLOW_S)

    def stop(self) -> int:
        """Send SIGTERM, wait until the program has ended, and return its exit code."""
        self._signal(signal.SIGTERM)
        return self._unshare.wait(timeout=SLOW_S)

    @property
    def has_ended(self) -> bool:
        """True if the program has ended."""
        return self._unshare.poll() is not None

    def _signal(self, number: signal.Signals) -> None:
        """Send the signal to the program itself, as soon as it has started, and not to unshare or the shell."""
        while not self.has_ended:
            if (program := _child(_child(self._unshare.pid))) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, number)
                return
            time.sleep(0.01)


def _child(pid: int | None) -> int | None:
    """Return the first child of a process, or None if it has none or has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _change_owner(path: Path, *, recursive: bool = False) -> None:
    subprocess.run(
        ["chown", *(["--recursive"] if recursive else []), f"{ACCOUNT_ID}:{ACCOUNT_ID}", str(path)], check=True
    )
