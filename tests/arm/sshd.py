"""An SSH server inside the emulated machine that accepts one key for one account."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.arm.machine import SLOW_S, Machine
from tests.arm.userland import ACCOUNT

_CONFIG: Final = """\
ListenAddress 127.0.0.1
Port {port}
HostKey /etc/ssh/host_key
PidFile none
AllowUsers {account}
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
PrintMotd no
LoginGraceTime 600
Subsystem sftp /usr/lib/openssh/sftp-server
"""

_CLIENT: Final = """\
Host {account}@127.0.0.1 127.0.0.1
  Port {port}
  IdentityFile {folder}/id
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 300
"""


class SshServer:
    """The address of the server, and the client's files for the login."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.destination = f"{ACCOUNT}@127.0.0.1"
        self.identity = folder / "id"
        self.known_hosts = folder / "known_hosts"
        self.client_config = folder / "config"
        """Configuration for `ssh -F`: port, key and known_hosts."""

    def run(self, *command: str) -> str:
        """Run a command on the machine and return its standard output. Raises AssertionError if it fails."""
        ssh = ["ssh", "-F", str(self.client_config), self.destination, *command]
        result = subprocess.run(ssh, capture_output=True, text=True, timeout=SLOW_S, check=False)
        assert result.returncode == 0, f"{' '.join(command)}: exit code {result.returncode}\n{result.stderr[-4000:]}"
        return result.stdout


@contextmanager
def ssh_server(machine: Machine, folder: Path) -> Iterator[SshServer]:
    """Run sshd in the machine; at the end of the block, its sessions and all processes that they started are killed.

    Args:
        machine: the emulated machine.
        folder: folder for the client's key, its known_hosts, and the log of sshd.

    """
    for key in ("id", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", folder / key], check=True)
    machine.put(f"/home/{ACCOUNT}/.ssh/authorized_keys", (folder / "id.pub").read_bytes(), mode=0o600)
    host_key = machine.host_path("/etc/ssh/host_key")
    host_key.touch(mode=0o600)
    host_key.write_bytes((folder / "host_key").read_bytes())
    port = _free_port()
    machine.host_path("/etc/ssh/sshd_config").write_text(_CONFIG.format(port=port, account=ACCOUNT))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "config").write_text(_CLIENT.format(port=port, account=ACCOUNT, folder=folder))
    with (
        (folder / "sshd.log").open("wb") as log,
        machine.running("/usr/sbin/sshd", "-D", "-e", log=log, account=False) as server,
    ):
        while not _answers(port):
            assert not server.has_ended, f"sshd did not start: {(folder / 'sshd.log').read_text()}"
            time.sleep(0.05)
        yield SshServer(port, folder)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SLOW_S) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
