"""The lock of a deployment's folder: a process on the device holds it while this client sends heartbeats."""

import contextlib
import getpass
import platform
import threading
from typing import Final

from edgeexit.deploy.ssh import Connection
from edgeexit.deploy.steps import BOOTSTRAP, LOCK, RESULT_PREFIX
from edgeexit.errors import DeployError

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
        self._released = threading.Event()
        with contextlib.ExitStack() as stack:
            self._process = stack.enter_context(connection.process(python, "-c", BOOTSTRAP, str(len(program))))
            with contextlib.suppress(BrokenPipeError):
                self._process.write(program)
            line = self._process.read_line(RESULT_PREFIX, LOCK.timeout_s)
            if not line:
                stack.close()  # raises the error if ssh or Python failed
            reply = LOCK.decode_reply(line)
            self._stack = stack.pop_all()
        self.acquired = reply["acquired"]
        self.owner = reply["owner"]
        self.age_s = reply["age_s"]
        self._heartbeat = threading.Thread(target=self._send_heartbeats, daemon=True)
        self._heartbeat.start()

    def release(self) -> None:
        """Release the lock; if the connection is lost, the device has released it already."""
        self._released.set()
        self._heartbeat.join()
        with contextlib.suppress(DeployError):
            self._stack.close()

    def _send_heartbeats(self) -> None:
        while not self._released.wait(_HEARTBEAT_S):
            try:
                self._process.write(b".")
            except (OSError, DeployError):  # noqa: PERF203 - once in ten seconds
                return
