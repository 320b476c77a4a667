"""Runs steps on a device: sends a script and its arguments, reads its answer, tries again when the link drops."""

import contextlib
import getpass
import json
import platform
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from edgeexit.deploy.ssh import Connection, ConnectionLostError
from edgeexit.errors import DeployError

if TYPE_CHECKING:
    import subprocess

_PACKAGE: Final = "edgeexit.deploy.remote"
_NEEDS: Final = {
    "hold": ("layout",),
    "inventory": ("layout",),
    "receive": ("layout", "inventory"),
    "environment": ("layout",),
    "finish": ("layout",),
    "plans": ("layout", "environment"),
    "activate": ("layout", "service"),
    "watch": ("layout", "service", "activate"),
}
"""Module that a step runs -> those that it imports, in the order in which they are defined there."""

_BOOTSTRAP: Final = """
import json, os, sys, types
left, pieces = int(sys.argv[1]), []
while left:
    pieces.append(os.read(0, left))
    left = left - len(pieces[-1]) if pieces[-1] else sys.exit(1)
sent = json.loads(b"".join(pieces))
for name in ("edgeexit", "edgeexit.deploy", "edgeexit.deploy.remote"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in sent["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
layout = sys.modules["edgeexit.deploy.remote.layout"]
try:
    module.main(sent["arguments"])
except layout.RefusedError as error:
    layout.answer(refused=str(error))
except OSError as error:
    layout.answer(refused=f"'{error.filename}': {error.strerror}" if error.filename else str(error))
"""
"""Reads as many bytes of standard input as its argument says, defines the modules in them, calls the last `main`."""

_RESULT: Final = b"edgeexit-result "
_RETRY_DELAYS_S: Final = (1.0, 2.0, 5.0, 10.0, 20.0)
_HEARTBEAT_S: Final = 10.0
_LOCK_PATIENCE_S: Final = 60.0
"""A lock whose client has vanished is free after 45 s (remote/hold.py)."""


T = TypeVar("T")


class Device:
    """A device that steps are run on, over a connection that may drop.

    Args:
        connection: how it is reached.
        python: its interpreter, 3.10 or newer.
        root: absolute path of the folder of the deployment there.
        retry_delays_s: waits before each new try after the link has dropped.
        say: told, in one line, what somebody who waits should know.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        python: str,
        root: str,
        retry_delays_s: tuple[float, ...] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._python = python
        self.root = root
        self._retry_delays_s = _RETRY_DELAYS_S if retry_delays_s is None else retry_delays_s
        self._say = say
        self._lock: _Lock | None = None
        self._wants_lock = False

    def call(self, step: str, stream: Callable[[], Iterable[bytes]] = tuple, **arguments: Any) -> dict[str, Any]:
        """Run a step of `edgeexit.deploy.remote` and return its answer; it may run more than once.

        Args:
            step: the module.
            stream: gives what follows the arguments on the step's standard input.
            arguments: plain data.

        Raises DeployError with the device's words where it refuses, ConnectionLostError where the link stays down.

        """
        return self.retry(lambda: self.call_once(step, stream, **arguments))

    def call_once(self, step: str, stream: Callable[[], Iterable[bytes]] = tuple, **arguments: Any) -> dict[str, Any]:
        """Do as `call`, with one try: what is sent may depend on what has arrived."""
        output = b""
        program = _program(step, {"root": self.root, **arguments})
        with self._connection.process(self._python, "-c", _BOOTSTRAP, str(len(program))) as process:
            assert process.stdin is not None  # noqa: S101 - `process` gives pipes
            assert process.stdout is not None  # noqa: S101
            try:
                process.stdin.write(program)
                for piece in stream():
                    process.stdin.write(piece)
                process.stdin.close()
            except BrokenPipeError:  # the device refused, or the link is gone: the answer or the status says which
                pass
            output = process.stdout.read()
        return _answer(output)

    def retry(self, work: Callable[[], T]) -> T:
        """Do something, and again after each drop of the link."""
        for delay_s in self._retry_delays_s:
            try:
                self._keep_lock()
                return work()
            except ConnectionLostError as error:  # noqa: PERF203 - a try for each delay is the point
                self._say(f"{error.args[0].partition(';')[0]}; trying again in {delay_s:g} s")
                self._drop_lock()
                self._connection.close()
                time.sleep(delay_s)
        self._keep_lock()
        return work()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other deployments to the same folder away. Raises DeployError that says who is at work there."""
        self._wants_lock = True
        try:
            yield
        finally:
            self._wants_lock = False
            self._drop_lock()

    def _keep_lock(self) -> None:
        if not self._wants_lock or self._lock is not None:
            return
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        told = False
        while self._lock is None:
            lock = _Lock(self._connection, self._python, self.root)
            if lock.owner is None:
                self._lock = lock
                return
            lock.release()
            if time.monotonic() > deadline:
                raise DeployError(
                    f"another deployment works in '{self.root}' since {lock.age_s:.0f} s, by {lock.owner}; "
                    "try again when it has ended"
                )
            if not told:
                self._say(f"waiting for another deployment, by {lock.owner}, since {lock.age_s:.0f} s")
                told = True
            time.sleep(1.0)

    def _drop_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class _Lock:
    """The device's lock, held by a process there that listens to a heartbeat from here."""

    def __init__(self, connection: Connection, python: str, root: str) -> None:
        program = _program("hold", {"root": root, "owner": f"{getpass.getuser()}@{platform.node()}"})
        self._context = connection.process(python, "-c", _BOOTSTRAP, str(len(program)))
        self._process = self._context.__enter__()
        self._ended = threading.Event()
        assert self._process.stdin is not None  # noqa: S101 - `process` gives pipes
        assert self._process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(program)
            self._process.stdin.flush()
        line = b""
        for line in self._process.stdout:
            if line.startswith(_RESULT):
                break
        if not line.startswith(_RESULT):
            self._context.__exit__(None, None, None)  # tells why
            raise DeployError("the device does not answer as expected")
        reply = _answer(line)
        self.owner: str | None = None if reply["held"] else reply["owner"]
        """Who has the lock, where it is not ours."""
        self.age_s = 0.0 if reply["held"] else float(reply["age_s"])
        self._beat = threading.Thread(target=self._keep_alive, args=(self._process,), daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Give the lock back; a link that is gone has done so already."""
        self._ended.set()
        self._beat.join()
        with contextlib.suppress(DeployError):
            self._context.__exit__(None, None, None)

    def _keep_alive(self, process: "subprocess.Popen[bytes]") -> None:
        while not self._ended.wait(_HEARTBEAT_S):
            try:
                assert process.stdin is not None  # noqa: S101 - see above
                process.stdin.write(b".")
                process.stdin.flush()
            except OSError:  # noqa: PERF203 - once in ten seconds
                return


def shell_script(name: str) -> bytes:
    """Return one of the sh scripts of the remote side."""
    return files(_PACKAGE).joinpath(name).read_bytes()


def run_shell(connection: Connection, script: str, *arguments: str) -> str:
    """Run a sh script on the device, before any Python of it is known, and return what it printed."""
    return connection.run("sh", "-s", "--", *arguments, stdin=shell_script(script)).decode(errors="replace")


def _program(step: str, arguments: dict[str, Any]) -> bytes:
    names = (*_NEEDS[step], step)
    modules = [[f"{_PACKAGE}.{name}", files(_PACKAGE).joinpath(f"{name}.py").read_text()] for name in names]
    return msgspec.json.encode({"modules": modules, "arguments": arguments})


def _answer(output: bytes) -> dict[str, Any]:
    for line in reversed(output.splitlines()):
        if line.startswith(_RESULT):
            reply: dict[str, Any] = json.loads(line[len(_RESULT) :])
            if "refused" in reply:
                raise DeployError(f"the device: {reply['refused']}")
            return reply
    raise DeployError(f"the device does not answer as expected: {shlex.quote(output.decode(errors='replace')[-200:])}")
