"""The lock of a deployment's folder: a process on the device holds it while this client sends heartbeats."""

import contextlib
import getpass
import platform
import threading
from typing import TYPE_CHECKING, Final

from edgeexit.deploy.ssh import Connection
from edgeexit.deploy.steps import BOOTSTRAP, LOCK, RESULT_PREFIX
from edgeexit.errors import DeployError

if TYPE_CHECKING:
    import subprocess

_HEARTBEAT_S: Final = 10.0
"""The device releases the lock after 45 s without a heartbeat (remote/lock.py)."""


class DeploymentLock:
    """One attempt to take the lock. The constructor does not wait: check `acquired`.

    Attributes:
        acquired: True if this client holds the lock.
        owner: `user@host` of the client that holds it.
        age_s: how long that client has held it, in seconds.

    Raises DeployError if the connection or the step on the device fails.

    """

    def __init__(self, connection: Connection, *, python: str, root: str) -> None:
        program = LOCK.encode(root, {"owner": f"{getpass.getuser()}@{platform.node()}"})
        self._context = connection.process(python, "-c", BOOTSTRAP, str(len(program)))
        self._process = self._context.__enter__()
        self._released = threading.Event()
        assert self._process.stdin is not None  # noqa: S101 - `process` opens pipes
        assert self._process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(program)
            self._process.stdin.flush()
        line = b""
        for line in self._process.stdout:
            if line.startswith(RESULT_PREFIX):
                break
        if not line.startswith(RESULT_PREFIX):
            self._context.__exit__(None, None, None)  # raises the error if ssh or Python failed
        reply = LOCK.decode_reply(line)
        self.acquired = reply["acquired"]
        self.owner = reply["owner"]
        self.age_s = reply["age_s"]
        self._heartbeat = threading.Thread(target=self._send_heartbeats, args=(self._process,), daemon=True)
        self._heartbeat.start()

    def release(self) -> None:
        """Release the lock; if the connection is lost, the device has released it already."""
        self._released.set()
        self._heartbeat.join()
        with contextlib.suppress(DeployError):
            self._context.__exit__(None, None, None)

    def _send_heartbeats(self, process: "subprocess.Popen[bytes]") -> None:
        while not self._released.wait(_HEARTBEAT_S):
            try:
                assert process.stdin is not None  # noqa: S101 - see above
                process.stdin.write(b".")
                process.stdin.flush()
            except OSError:  # noqa: PERF203 - once in ten seconds
                return
