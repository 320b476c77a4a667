"""Starts, stops and watches the agent: under systemd, under a user's systemd, or as a plain process."""

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
from typing import Any

from edgeexit.deploy.remote.layout import CACHE, CURRENT, RefusedError

UNIT_FILE = "edgeexit.service"
LOG_FILE = "agent.log"

_STOP_S = 30.0
_HTTP_S = 5.0
_LOG_BYTES = 1 << 20
_COMMAND = ("venv/bin/edgeexit", "agent", "bundle", "--config", "agent.toml")


class AgentService:
    """The agent of one folder under one kind of supervision: `systemd`, `user` or `process`."""

    def __init__(self, root: Path, kind: str, name: str) -> None:
        self.root = root
        self.kind = kind
        self.unit = f"{name}.service"
        self._started: float | None = None
        self._as_root = [] if os.geteuid() == 0 or kind == "user" else ["sudo", "-n"]
        self._user = ["--user"] if kind == "user" else []
        os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")

    def restart(self) -> None:
        """Run what `current` names, and nothing else; does not wait until it serves."""
        self._started = time.time()
        if self.kind == "process":
            self.stop()
            self._spawn()
            return
        self._install()
        self._systemctl("restart", "--no-block", self.unit)

    def stop(self, *, forget: bool = False) -> None:
        """Stop the agent and wait for its end; with `forget`, it does not come back when the device starts again."""
        if self.kind == "process":
            self._kill()
            return
        self.check_own()
        self._systemctl("stop", self.unit, tolerant=True)
        if forget:
            self._systemctl("disable", self.unit, tolerant=True)
            self._root_run("rm", "-f", str(self._unit_path))
            self._systemctl("daemon-reload")

    def deaths(self) -> int | None:
        """Return how often the agent has ended by itself since it was started; None where it is gone for good."""
        if self.kind == "process":
            return 0 if self.pid() is not None else None
        fields = self._properties()
        gone = fields.get("ActiveState") in {"failed", "inactive"}
        if gone and fields.get("Job", "0") == "0":  # else it is between its end and its start
            return None
        return int(fields.get("NRestarts") or 0)

    def pid(self) -> int | None:
        """Return the process that runs, or None."""
        if self.kind != "process":
            return int(self._properties().get("MainPID") or 0) or None
        with self._lock_path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not mislead one another
            except BlockingIOError:  # the agent holds it until it ends
                return int(self._pid_path.read_text() or 0) or None
        return None

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines that the agent said."""
        if self.kind == "process":
            try:
                text = (self.root / LOG_FILE).read_bytes()[-_LOG_BYTES:].decode(errors="replace")
            except OSError:
                return []
        else:
            command = ["journalctl", *self._user, "--unit", self.unit, "--lines", str(lines), "--output", "cat"]
            since = [] if self._started is None else [f"--since=@{self._started:.0f}"]
            text = _output([*self._as_root, *command, *since, "--no-pager"], tolerant=True)
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]

    def warning(self) -> str | None:
        """Return what keeps the agent from staying, where its supervisor does not keep it."""
        if self.kind != "user" or "Linger=no" not in _output(
            ["loginctl", "show-user", str(os.getuid()), "--property=Linger"], tolerant=True
        ):
            return None
        return (
            "the agent ends with this user's last login, since lingering is not allowed; let an administrator run "
            "`loginctl enable-linger` for the user there"
        )

    def check_own(self) -> str:
        """Return the unit that is installed, or nothing. Raises RefusedError where it is not of this deployment."""
        if self.kind == "process":
            return ""
        try:
            installed = self._unit_path.read_text()
        except FileNotFoundError:
            return ""
        if f"WorkingDirectory={self.root}/{CURRENT}" not in installed.splitlines():
            raise RefusedError(
                f"'{self._unit_path}' is of another deployment; remove it, or give a --path of another name"
            )
        return installed

    def _install(self) -> None:
        text = (self.root / CURRENT / UNIT_FILE).read_text()
        before = self.check_own()
        if text != before:
            if self.kind == "user":
                self._unit_path.parent.mkdir(parents=True, exist_ok=True)
            self._root_run("tee", str(self._unit_path), said=text)
            self._systemctl("daemon-reload")
        self._systemctl("enable", self.unit)
        self._systemctl("reset-failed", self.unit, tolerant=True)
        if self.kind == "user":  # else it would end with the last login; a system may forbid it
            _output(["loginctl", "enable-linger"], tolerant=True)

    def _spawn(self) -> None:
        log = self.root / LOG_FILE
        if log.exists():
            log.replace(log.with_name(f"{LOG_FILE}.1"))
        with self._lock_path.open("a") as lock, log.open("ab") as output:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(  # noqa: S603 - our own words, and no shell
                _COMMAND,
                cwd=(self.root / CURRENT).resolve(),  # stays in its release when `current` moves on
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "XDG_CACHE_HOME": str(self.root / CACHE)},
                pass_fds=(lock.fileno(),),  # the lock tells that it lives, whatever becomes of process numbers
                start_new_session=True,
            )
            self._pid_path.write_text(str(process.pid))

    def _kill(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _STOP_S
            sent = False
            while time.monotonic() < deadline:
                pid = self.pid()
                if pid is None:
                    return
                if not sent:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                    sent = True
                time.sleep(0.05)
        raise RefusedError(f"the agent (process {self.pid()}) does not end")

    def _properties(self) -> dict[str, str]:
        wanted = "--property=ActiveState,NRestarts,MainPID,Job"
        shown = self._systemctl("show", self.unit, wanted, tolerant=True)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def _systemctl(self, *words: str, tolerant: bool = False) -> str:
        return _output([*self._as_root, "systemctl", *self._user, *words], tolerant=tolerant)

    def _root_run(self, *command: str, said: str = "") -> None:
        _output([*self._as_root, *command], said=said)

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


def occupied(release: dict[str, Any]) -> str | None:
    """Return what is amiss where somebody listens at the release's endpoint, whose agent does not run; else None."""
    host, port = release["endpoint"]
    try:
        socket.create_connection((host, port), timeout=_HTTP_S).close()
    except OSError:
        return None
    return f"port {port} on {host} is in use by another program; stop that, or set another port under [endpoint]"


def trouble(release: dict[str, Any]) -> str | None:
    """Ask the agent's endpoint; return None where it is ready and serves the release's bundle, else what is amiss."""
    host, port = release["endpoint"]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}/v2"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{base}/health/ready", timeout=_HTTP_S):
            pass
        with opener.open(f"{base}/models/{urllib.parse.quote(release['model'], safe='')}", timeout=_HTTP_S) as reply:
            told = json.load(reply)
    except urllib.error.HTTPError as error:
        return f"{error.url} answers {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{base} does not answer ({getattr(error, 'reason', error)})"
    versions = told.get("versions") if isinstance(told, dict) else None
    if not isinstance(versions, list) or release["bundle"] not in versions:
        found = ", ".join(map(str, versions)) if isinstance(versions, list) else "?"
        return f"{base} serves bundle {found}, not {release['bundle']}"
    return None


def _output(command: list[str], *, said: str = "", tolerant: bool = False) -> str:
    result = subprocess.run(  # noqa: S603 - our own words, and no shell
        command, input=said, capture_output=True, text=True, check=False
    )
    if result.returncode and not tolerant:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise RefusedError(f"`{' '.join(command)}`: {lines[-1] if lines else f'exit status {result.returncode}'}")
    return result.stdout
