"""One multiplexed connection to a device, by the system's own OpenSSH client, and its failures in words."""

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import msgspec

from edgeexit.errors import ConfigError, DeployError

_SSH_FAILED: Final = 255
_MAX_SOCKET: Final = 80
"""Characters of the control socket's path; the system allows about 104 and ssh appends some while it connects."""

_OPTION: Final = re.compile(r"[A-Za-z0-9]+=\S.*")
_HOST: Final = re.compile(r"(?:[^@\s-][^@\s]*@)?[^@\s-][^@\s]*")

_REASONS: Final = {
    r"Could not resolve hostname": "{host} is unknown: check its name, or add it to ~/.ssh/config",
    r"Connection refused": "{host} refuses the connection: is an SSH server running there, on this port?",
    r"REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the host key of {host} has changed since the last connection: if the device was set up anew, remove the old "
        "key with `ssh-keygen -R`; if not, somebody may stand in between"
    ),
    r"Host key verification failed": (
        "the host key of {host} is not known here: connect once with `ssh` and compare it with the device's"
    ),
    r"Permission denied|Too many authentication failures": (
        "{host} does not let us in: deployments use keys, never passwords; install yours with `ssh-copy-id`, or name "
        "one with --identity"
    ),
    r"timed out|No route to host|Network is unreachable": (
        "{host} does not answer: is it switched on and reachable from here?"
    ),
    r"Bad owner or permissions|no such identity|[Bb]ad configuration|UNPROTECTED": "ssh: {detail}",
}
"""What OpenSSH says -> what it means to somebody who deploys; the first that fits."""


class ConnectionLostError(DeployError):
    """The link was up and went away; the same operation may be tried again."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a device is and how to be let in; what is None is for ~/.ssh/config to say."""

    host: str
    """`[USER@]HOST`; a name of ~/.ssh/config will do."""
    port: int | None = None
    identity: Path | None = None
    options: tuple[str, ...] = ()
    """Further `-o` options of ssh, as `UserKnownHostsFile=...`."""

    def __post_init__(self) -> None:
        """Refuse what ssh would take for an option (ConfigError)."""
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"'{self.host}' is no address; give USER@HOST, or a name of ~/.ssh/config")
        if self.identity is not None and not self.identity.is_file():
            raise ConfigError(f"identity '{self.identity}' is not there; give the private key's file")
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise ConfigError(f"-o '{option}': expected NAME=VALUE, as in -o StrictHostKeyChecking=yes")


class Connection:
    """A connection that all commands share; opened by the first, closed at the end of the block.

    Commands are run by the device's POSIX shell. Raises DeployError where there is no connection to be had and
    ConnectionLostError where it breaks.
    """

    def __init__(self, address: Address) -> None:
        if shutil.which("ssh") is None:
            raise DeployError("the program 'ssh' is not here; install the OpenSSH client")
        self.address = address
        self._established = False
        self._folder = Path(tempfile.mkdtemp(prefix="edgeexit-"))  # mode 700: the socket is as good as a key
        if len(str(self._folder)) > _MAX_SOCKET:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="edgeexit-", dir="/tmp"))

    def __enter__(self) -> "Connection":
        """Give the connection; nothing is sent yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the shared connection and remove its socket."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """End the shared connection; the next command opens another."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # noqa: S603 - no shell here
                [*self._ssh(), "-O", "exit", "--", self.address.host], capture_output=True, check=False, timeout=10
            )

    def run(self, *command: str, stdin: bytes = b"") -> bytes:
        """Run a command on the device and return its standard output; its exit status has to be 0."""
        with self.process(*command) as process:
            assert process.stdin is not None  # noqa: S101 - asked for in `process`
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin)
                process.stdin.close()
            assert process.stdout is not None  # noqa: S101 - asked for in `process`
            return process.stdout.read()

    @contextlib.contextmanager
    def process(self, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a command with pipes for its input and output; wait for it at the end and judge how it ended."""
        with tempfile.TemporaryFile() as errors:  # a file: a pipe that nobody reads would stop ssh
            process = subprocess.Popen(  # noqa: S603 - no shell here; the device's gets quoted words
                [*self._ssh(), "--", self.address.host, " ".join(shlex.quote(word) for word in command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is ours to deal with; it must not cut the link first
            )
            try:
                yield process
                _close_quietly(process.stdin)
                code = process.wait()
            except BrokenPipeError:
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                _close_quietly(process.stdin)
                _close_quietly(process.stdout)
            errors.seek(0)
            self._judge(code, errors.read().decode(errors="replace"))

    def _judge(self, code: int, said: str) -> None:
        if code == 0:
            self._established = True
            return
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        detail = lines[-1] if lines else f"exit status {code}"
        if code != _SSH_FAILED and code > 0:
            self._established = True
            raise DeployError(f"{self.address.host}: {detail}")
        for pattern, meaning in _REASONS.items():
            if re.search(pattern, said):
                text = meaning.format(host=f"'{self.address.host}'", detail=detail)
                raise (ConnectionLostError if self._established else DeployError)(text)
        if not self._established:
            raise DeployError(f"no connection to '{self.address.host}': {detail}")
        raise ConnectionLostError(
            f"the connection to '{self.address.host}' was lost; run the same command again, it goes on where it stopped"
        )

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": str(self._folder / "s"),
            "ControlPersist": "20",  # also ends the shared connection when this program is killed
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


def _close_quietly(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()
