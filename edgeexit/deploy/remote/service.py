"""Start, stop and check the agent: under the system's systemd, a user's systemd, or as a plain process."""

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Literal

from edgeexit.deploy.remote.documents import ReleaseDocument
from edgeexit.deploy.remote.layout import CACHE, CURRENT, StepError

UNIT_FILE = "edgeexit.service"
LOG_FILE = "agent.log"

_STOP_S = 30.0
_HTTP_S = 5.0
_LOG_BYTES = 1 << 20
_COMMAND = ("venv/bin/edgeexit", "agent", "bundle", "--config", "agent.toml")


class AgentService:
    """The agent of one deployment.

    Args:
        root: the folder of the deployment.
        kind: `systemd` for the systemd of the system, `user` for that of the user, `process` for a plain process.
        unit_name: name of the systemd unit, without `.service`.

    """

    def __init__(self, root: Path, kind: Literal["systemd", "user", "process"], unit_name: str) -> None:
        self.root = root
        self.kind = kind
        self.unit = f"{unit_name}.service"
        self._started: float | None = None
        self._sudo = [] if os.geteuid() == 0 or kind == "user" else ["sudo", "-n"]
        self._user = ["--user"] if kind == "user" else []
        os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")

    def restart(self) -> None:
        """Stop the agent if it runs, and start that of the current release; do not wait until it is healthy."""
        self._started = time.time()
        if self.kind == "process":
            self.stop()
            self._spawn()
            return
        self._install()
        self._systemctl("restart", "--no-block", self.unit)

    def stop(self, *, disable: bool = False) -> None:
        """Stop the agent and wait until it has ended; with `disable`, also remove its systemd unit."""
        if self.kind == "process":
            self._kill()
            return
        self.check_unit_owner()
        self._systemctl("stop", self.unit, check=False)
        if disable:
            self._systemctl("disable", self.unit, check=False)
            self._run_with_sudo("rm", "-f", str(self._unit_path))
            self._systemctl("daemon-reload")

    def restart_count(self) -> int | None:
        """Return how often the service manager has restarted the agent; None if it has ended and is not restarted."""
        if self.kind == "process":
            return 0 if self.pid() is not None else None
        fields = self._properties()
        inactive = fields.get("ActiveState") in {"failed", "inactive"}
        if inactive and fields.get("Job", "0") == "0":  # a job is pending if systemd is about to start it
            return None
        return int(fields.get("NRestarts") or 0)

    def pid(self) -> int | None:
        """Return the process id of the running agent, or None."""
        if self.kind != "process":
            return int(self._properties().get("MainPID") or 0) or None
        with self._lock_path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two callers may check at once
            except BlockingIOError:  # the agent holds the lock until it ends
                return int(self._pid_path.read_text() or 0) or None
        return None

    def log_tail(self, lines: int) -> list[str]:
        """Return the last `lines` lines of the agent's log."""
        if self.kind == "process":
            try:
                text = (self.root / LOG_FILE).read_bytes()[-_LOG_BYTES:].decode(errors="replace")
            except OSError:
                return []
        else:
            command = ["journalctl", *self._user, "--unit", self.unit, "--lines", str(lines), "--output", "cat"]
            since = [] if self._started is None else [f"--since=@{self._started:.0f}"]
            text = _output([*self._sudo, *command, *since, "--no-pager"], check=False)
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]

    def warning(self) -> str | None:
        """Return a warning if the agent will end when the user logs out, else None."""
        if self.kind != "user" or "Linger=no" not in _output(
            ["loginctl", "show-user", str(os.getuid()), "--property=Linger"], check=False
        ):
            return None
        return (
            "the agent ends when this user logs out of the device, because lingering is not enabled; ask an "
            "administrator to run `loginctl enable-linger` for this user there"
        )

    def check_unit_owner(self) -> str:
        """Return the text of the installed unit, or "" if there is none.

        Raises StepError if the unit belongs to a deployment in another folder.
        """
        if self.kind == "process":
            return ""
        try:
            installed = self._unit_path.read_text()
        except FileNotFoundError:
            return ""
        if f"WorkingDirectory={self.root}/{CURRENT}" not in installed.splitlines():
            raise StepError(
                f"'{self._unit_path}' belongs to another deployment; remove it, or give a --path with another name"
            )
        return installed

    def _install(self) -> None:
        text = (self.root / CURRENT / UNIT_FILE).read_text()
        installed = self.check_unit_owner()
        if text != installed:
            if self.kind == "user":
                self._unit_path.parent.mkdir(parents=True, exist_ok=True)
            self._run_with_sudo("tee", str(self._unit_path), stdin=text)
            self._systemctl("daemon-reload")
        self._systemctl("enable", self.unit)
        self._systemctl("reset-failed", self.unit, check=False)
        if self.kind == "user":  # without lingering the agent ends at logout; some systems do not allow it
            _output(["loginctl", "enable-linger"], check=False)

    def _spawn(self) -> None:
        log = self.root / LOG_FILE
        if log.exists():
            log.replace(log.with_name(f"{LOG_FILE}.1"))
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with self._lock_path.open("a") as lock, os.fdopen(handle, "ab") as output:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(  # noqa: S603 - a fixed command, no shell
                _COMMAND,
                cwd=(self.root / CURRENT).resolve(),  # the agent stays in its release when `current` changes
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "XDG_CACHE_HOME": str(self.root / CACHE)},
                pass_fds=(lock.fileno(),),  # the agent holds the lock while it runs; a pid may be reused
                start_new_session=True,
            )
            self._pid_path.write_text(str(process.pid))

    def _kill(self) -> None:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _STOP_S
            sent = False
            while time.monotonic() < deadline:
                pid = self.pid()
                if pid is None:
                    return
                if not sent:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal_number)
                    sent = True
                time.sleep(0.05)
        raise StepError(f"the agent (process {self.pid()}) did not stop after SIGTERM and SIGKILL; stop it by hand")

    def _properties(self) -> dict[str, str]:
        properties = "--property=ActiveState,NRestarts,MainPID,Job"
        shown = self._systemctl("show", self.unit, properties, check=False)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def _systemctl(self, *arguments: str, check: bool = True) -> str:
        return _output([*self._sudo, "systemctl", *self._user, *arguments], check=check)

    def _run_with_sudo(self, *command: str, stdin: str = "") -> None:
        _output([*self._sudo, *command], stdin=stdin)

    @property
    def _unit_path(self) -> Path:
        home = Path.home() / ".config/systemd/user"
        return (home if self.kind == "user" else Path("/etc/systemd/system")) / self.unit

    @property
    def _lock_path(self) -> Path:
        return self.root / ".agent.lock"

    @property
    def _pid_path(self) -> Path:
        return self.root / "agent.pid"


def port_in_use_error(release: ReleaseDocument) -> str | None:
    """Return an error if a program listens on the release's endpoint while its agent is stopped, else None."""
    host, port = _endpoint(release)
    try:
        socket.create_connection((host, port), timeout=_HTTP_S).close()
    except OSError:
        return None
    return f"port {port} on {host} is in use by another program; stop it, or set another port under [endpoint]"


def health_error(release: ReleaseDocument) -> str | None:
    """Return None if the agent's endpoint is ready and serves the release's bundle, else an error."""
    host, port = _endpoint(release)
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}/v2"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{base}/health/ready", timeout=_HTTP_S):
            pass
        with opener.open(f"{base}/models/{urllib.parse.quote(release['model'], safe='')}", timeout=_HTTP_S) as reply:
            model = json.load(reply)
    except urllib.error.HTTPError as error:
        return f"{error.url} returns status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{base} returns no valid response ({getattr(error, 'reason', error)})"
    versions = model.get("versions") if isinstance(model, dict) else None
    if not isinstance(versions, list) or release["bundle"] not in versions:
        found = ", ".join(map(str, versions)) if isinstance(versions, list) else "?"
        return f"{base} serves bundle {found}, not {release['bundle']}"
    return None


def _endpoint(release: ReleaseDocument) -> tuple[str, int]:
    endpoint = release["configuration"]["endpoint"]
    return endpoint["host"], endpoint["port"]


def _output(command: list[str], *, stdin: str = "", check: bool = True) -> str:
    result = subprocess.run(  # noqa: S603 - a fixed command, no shell
        command, input=stdin, capture_output=True, text=True, check=False
    )
    if result.returncode and check:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise StepError(f"`{' '.join(command)}`: {lines[-1] if lines else f'exit status {result.returncode}'}")
    return result.stdout
