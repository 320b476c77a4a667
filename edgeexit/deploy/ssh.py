"""One multiplexed SSH connection to a device, through the OpenSSH client of the system."""

import base64
import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from edgeexit.deploy.remote_process import RemoteProcess
from edgeexit.deploy.replies import clean_text
from edgeexit.errors import ConfigError, DeployError

_SSH_FAILED: Final = 255
_MAX_SOCKET: Final = 80
"""Characters in the path of the control socket; the system allows about 104, and ssh appends a suffix."""

_RUN_S: Final = 120.0
"""Maximum time of a short command; the first import of TensorRT takes some 10 s per interpreter."""
_EXIT_S: Final = 120.0
"""Maximum time from the last output of a command until it has ended."""
_OPTION: Final = re.compile(r"[A-Za-z0-9]+=\S.*")
_SIMPLE: Final = re.compile(r"[\w./@%+=:, -]+", re.ASCII)
_HOST: Final = re.compile(r"(?:[^@\s-][^@\s]*@)?[^@\s-][^@\s]*")

_REASONS: Final = {
    r"Could not resolve hostname": "{host} is unknown: check the name, or add it to ~/.ssh/config",
    r"Connection refused": "{host} refuses the connection: is an SSH server running there, on this port?",
    r"REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the host key of {host} has changed since the last connection: if the device was reinstalled, remove the old "
        "key with `ssh-keygen -R`; if it was not, another machine may be intercepting the connection"
    ),
    r"Host key verification failed": (
        "the host key of {host} is not in known_hosts: connect once with `ssh` and compare the key with the device's"
    ),
    r"Permission denied|Too many authentication failures": (
        "{host} rejects the login: deployments use SSH keys, never passwords; install your key with `ssh-copy-id`, or "
        "give another one with --identity"
    ),
    r"timed out|No route to host|Network is unreachable": (
        "{host} does not answer: is it switched on and reachable from this machine?"
    ),
    r"Bad owner or permissions|no such identity|[Bb]ad configuration|UNPROTECTED": "ssh: {detail}",
}
"""Pattern of a message of OpenSSH -> the error for the user; the first pattern that matches is used."""


class ConnectionLostError(DeployError):
    """The connection was established and then lost; the same operation may be tried again."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect to a device. For a field that is None, ssh uses ~/.ssh/config."""

    host: str
    """`[USER@]HOST`, or a host name in ~/.ssh/config."""
    port: int | None = None
    identity: Path | None = None
    options: tuple[str, ...] = ()
    """Further options for `ssh -o`, for example `UserKnownHostsFile=...`."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a host that ssh would parse as an option, a missing key file, or a malformed option."""
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"'{self.host}' is not an address; give USER@HOST, or a host name in ~/.ssh/config")
        if self.identity is not None and not self.identity.is_file():
            raise ConfigError(f"identity file '{self.identity}' does not exist; give the file of the private key")
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise ConfigError(f"-o '{option}': expected NAME=VALUE, as in -o StrictHostKeyChecking=yes")


class Connection:
    """One connection for all commands; the first command opens it, the end of the `with` block closes it.

    The POSIX shell `sh` of the device runs the commands. The user's login shell, which starts it, may be another one,
    e.g. tcsh or fish. The methods that run a command raise DeployError if the connection cannot be established, and
    ConnectionLostError if it is lost later.
    """

    def __init__(self, address: Address) -> None:
        if shutil.which("ssh") is None:
            raise DeployError("the program 'ssh' is not installed; install the OpenSSH client")
        self.address = address
        self._established = False
        self._folder = Path(tempfile.mkdtemp(prefix="edgeexit-"))  # mode 700: a user who opens the socket can log in
        if len(str(self._folder)) > _MAX_SOCKET:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="edgeexit-", dir="/tmp"))

    def __enter__(self) -> "Connection":
        """Return the connection; the first command opens it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the shared connection and remove its socket."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Close the shared connection; the next command opens another."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # noqa: S603 - no local shell
                [*self._ssh(), "-O", "exit", "--", self.address.host], capture_output=True, check=False, timeout=10
            )

    def run(self, *command: str, stdin: bytes = b"") -> bytes:
        """Run a short command on the device and return its standard output.

        Raises DeployError if its exit status is not 0, if it takes longer than two minutes, or if its output is longer
        than a few MiB.
        """
        with self.process(*command) as process:
            with contextlib.suppress(BrokenPipeError):
                process.write(stdin)
            process.close_input()
            return process.read_all(_RUN_S)

    @contextlib.contextmanager
    def process(self, *command: str) -> Iterator[RemoteProcess]:
        """Start a command with pipes for its input and output; at the end of the block, wait for it.

        Raises DeployError at the end of the block if the exit status is not 0.
        """
        # No local shell; the arguments for the device's shell are quoted.
        process = RemoteProcess([*self._ssh(), "--", self.address.host, _quote(command)], device=self.address.host)
        try:
            with contextlib.suppress(BrokenPipeError):  # the exit status shows why
                yield process
            code = process.wait(_EXIT_S)
        finally:
            process.kill()
        self._check_exit_status(code, process.errors())

    def _check_exit_status(self, code: int, errors: str) -> None:
        if code == 0:
            self._established = True
            return
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        detail = clean_text(lines[-1]) if lines else f"exit status {code}"
        if code != _SSH_FAILED and code > 0:
            self._established = True
            raise DeployError(f"{self.address.host}: {detail}")
        for pattern, message in _REASONS.items():
            if re.search(pattern, errors):
                text = message.format(host=f"'{self.address.host}'", detail=detail)
                raise (ConnectionLostError if self._established else DeployError)(text)
        if not self._established:
            raise DeployError(f"no connection to '{self.address.host}': {detail}")
        raise ConnectionLostError(
            f"the connection to '{self.address.host}' was lost; run the same command again to continue"
        )

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": str(self._folder / "s"),
            "ControlPersist": "20",  # also closes the shared connection after this program is killed
            "RemoteCommand": "none",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "RequestTTY": "no",
            "LogLevel": "ERROR",
        }
        command = ["ssh"]
        if self.address.port is not None:
            command += ["-p", str(self.address.port)]
        if self.address.identity is not None:
            command += ["-i", str(self.address.identity)]
        for option in (*self.address.options, *(f"{name}={value}" for name, value in options.items())):
            command += ["-o", option]
        return command


def _quote(command: Sequence[str]) -> str:
    """Return a command line that every login shell passes on unchanged.

    Within single quotes, tcsh interprets `!` and line breaks, and fish a backslash. A command with other characters
    than simple ones is therefore encoded, and `sh` decodes and runs it.
    """
    if all(_SIMPLE.fullmatch(argument) for argument in command):
        return " ".join(shlex.quote(argument) for argument in command)
    line = "exec " + " ".join(shlex.quote(argument) for argument in command)
    encoded = base64.b64encode(line.encode(errors="surrogateescape")).decode()
    return f"""exec sh -c 'eval "$(echo {encoded} | base64 -d)"'"""
