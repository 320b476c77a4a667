"""A real OpenSSH server on this machine, with its own keys, that takes the place of the device's."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from edgeexit.deploy import Address

SERVER = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
MISSING = "OpenSSH is missing: install openssh-server and openssh-client"


class Sshd:
    """An sshd on a free port of 127.0.0.1 that accepts the current user with the key `client`.

    Its sessions have a separate PATH, so that a test can choose which Pythons and programs the device has.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.programs = folder / "bin"
        """Folder that is first in the PATH of the device's sessions."""
        self.programs.mkdir()
        for name in ("host", "client", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", folder / name], check=True
            )
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self._write_known_hosts(folder / "host.pub")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            # SHLVL: a nested shell does not read ~/.bashrc, which may be slow and change the PATH.
            f"SetEnv PATH={self.programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin SHLVL=1\n"
        )
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # the chroot of its unprivileged process
        self._server = subprocess.Popen([SERVER, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=subprocess.PIPE)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._server.poll() is not None:
                raise AssertionError(self._server.stderr.read().decode())
            time.sleep(0.05)
        raise AssertionError("sshd does not accept connections")

    def stop(self) -> None:
        self.drop_connections()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
            self._server.stderr.close()
            self._server = None

    def drop_connections(self) -> None:
        """Kill all sessions, as if the connection was lost; the server continues to run."""
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

    @contextlib.contextmanager
    def login_shell(self, command: str) -> Iterator[None]:
        """During the block, run this shell command in place of the login shell; it finds the client's in $line."""
        keys = self.folder / "authorized_keys"
        plain = keys.read_text()
        forced = f'export line="$SSH_ORIGINAL_COMMAND"; {command}'.replace('"', '\\"')
        keys.write_text(f'command="{forced}" {plain}')
        try:
            yield
        finally:
            keys.write_text(plain)

    def change_known_key(self) -> None:
        """Replace the server's key in `known_hosts` by another one."""
        self._write_known_hosts(self.folder / "stranger.pub")

    def forget_known_key(self) -> None:
        """Remove the server's key from `known_hosts`."""
        (self.folder / "known_hosts").write_text("")

    def _write_known_hosts(self, key: Path) -> None:
        kind, public_key, _comment = key.read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {public_key}\n")


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(status.parent.name))
    return found
