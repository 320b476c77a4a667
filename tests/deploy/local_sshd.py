"""A real OpenSSH server on this machine, with keys of its own, as the device of a test."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from edgeexit.deploy import Address

SERVER = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
MISSING = "no OpenSSH here: install openssh-server and openssh-client"


class Sshd:
    """An sshd on a free port of 127.0.0.1 that lets the current user in with the key `client`.

    Its sessions see a PATH of the test's own, so that a test decides which Pythons and programs its device has.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.programs = folder / "bin"
        """Programs that go before the system's in the device's sessions."""
        self.programs.mkdir()
        for name in ("host", "client", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", folder / name], check=True
            )
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self._know(folder / "host.pub")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            # SHLVL: what looks like a shell in a shell does not read ~/.bashrc, which may be slow and change the PATH.
            f"SetEnv PATH={self.programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin SHLVL=1\n"
        )
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where its unprivileged part is shut into
        self._server = subprocess.Popen([SERVER, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=subprocess.PIPE)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._server.poll() is not None:
                raise AssertionError(self._server.stderr.read().decode())
            time.sleep(0.05)
        raise AssertionError("sshd does not listen")

    def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
            self._server.stderr.close()
            self._server = None

    def cut(self) -> None:
        """Kill every session of this server, as a link does that goes away; the server itself stays."""
        if self._server is not None:
            for session in children(self._server.pid):
                for process in (*children(session), session):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    def address(self, **changes: object) -> Address:
        fields = {
            "host": "127.0.0.1",
            "port": self.port,
            "identity": self.folder / "client",
            "options": (
                f"UserKnownHostsFile={self.folder / 'known_hosts'}",
                "GlobalKnownHostsFile=/dev/null",
                "StrictHostKeyChecking=yes",
                "IdentitiesOnly=yes",
            ),
        }
        return Address(**{**fields, **changes})

    def change_known_key(self) -> None:
        """Let clients expect another host key."""
        self._know(self.folder / "stranger.pub")

    def forget_known_key(self) -> None:
        (self.folder / "known_hosts").write_text("")

    def _know(self, key: Path) -> None:
        words = key.read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {words[0]} {words[1]}\n")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(status.parent.name))
    return found
