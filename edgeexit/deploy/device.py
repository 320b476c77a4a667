"""Run a step on a device: send its modules and arguments, read its reply, and retry after a lost connection."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from edgeexit.deploy.facts import OLDEST_PYTHON, parse_facts
from edgeexit.deploy.lock import DeploymentLock
from edgeexit.deploy.replies import ReplyT, clean_text
from edgeexit.deploy.ssh import Address, Connection, ConnectionLostError
from edgeexit.deploy.steps import BOOTSTRAP, ArgumentsT, RemoteStep, shell_script
from edgeexit.errors import DeployError
from edgeexit.progress import NO_PROGRESS, Progress

_RETRY_DELAYS_S: Final = (1.0, 2.0, 5.0, 10.0, 20.0)
_LOCK_TIMEOUT_S: Final = 60.0
"""Longer than the 45 s after which the device releases the lock of a client that has vanished (remote/lock.py)."""

T = TypeVar("T")


class Device:
    """A device behind an SSH connection that may be lost and opened again.

    Args:
        connection: the SSH connection.
        python: path of the device's Python, 3.10 or newer.
        root: absolute path of the deployment's folder on the device.
        retry_delays_s: delays before each new attempt after a lost connection.
        progress: receives messages about retries and about waiting for the lock.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        python: str,
        root: str,
        retry_delays_s: tuple[float, ...] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._connection = connection
        self._python = python
        self.root = root
        self._retry_delays_s = _RETRY_DELAYS_S if retry_delays_s is None else retry_delays_s
        self._progress = progress
        self._lock: DeploymentLock | None = None
        self._wants_lock = False

    def call(
        self,
        step: RemoteStep[ArgumentsT, ReplyT],
        arguments: ArgumentsT,
        stream: Callable[[], Iterable[bytes]] = tuple,
    ) -> ReplyT:
        """Run a step and return its reply. After a lost connection the step runs again, so it must be idempotent.

        Args:
            step: the step.
            arguments: its arguments.
            stream: returns the bytes that follow the arguments on the step's standard input; called once per attempt.

        Raises DeployError with the device's message if the step fails, and ConnectionLostError if the connection is
        lost in every attempt.

        """
        return self.retry(lambda: self.call_once(step, arguments, stream))

    def call_once(
        self,
        step: RemoteStep[ArgumentsT, ReplyT],
        arguments: ArgumentsT,
        stream: Callable[[], Iterable[bytes]] = tuple,
    ) -> ReplyT:
        """Run a step as `call` does, but only once, for a caller that computes new arguments before each attempt."""
        program = step.encode(self.root, arguments)
        with self._connection.process(self._python, "-c", BOOTSTRAP, str(len(program))) as process:
            # If the step failed or the connection is lost, the reply or the exit status shows which.
            with contextlib.suppress(BrokenPipeError):
                process.write(program)
                for chunk in stream():
                    process.write(chunk)
            process.close_input()
            output = process.read_all(step.timeout_s)
        return step.decode_reply(output)

    def retry(self, operation: Callable[[], T]) -> T:
        """Call `operation`; call it again after each lost connection, until the delays are used up."""
        for delay_s in self._retry_delays_s:
            try:
                self._take_lock()
                return operation()
            except ConnectionLostError as error:  # noqa: PERF203 - one attempt per delay
                self._progress.message(f"{error.args[0].partition(';')[0]}; trying again in {delay_s:g} s")
                self._release_lock()
                self._connection.close()
                time.sleep(delay_s)
        self._take_lock()
        return operation()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder during the block, so that no other deployment changes it.

        The first step takes the lock. That step raises DeployError, which names the owner, if another client holds the
        lock for longer than 60 s.
        """
        self._wants_lock = True
        try:
            yield
        finally:
            self._wants_lock = False
            self._release_lock()

    def _take_lock(self) -> None:
        if not self._wants_lock or self._lock is not None:
            return
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        reported = False
        while True:
            lock = DeploymentLock(self._connection, python=self._python, root=self.root)
            if lock.acquired:
                self._lock = lock
                return
            lock.release()
            if time.monotonic() > deadline:
                raise DeployError(
                    f"another deployment has been running in '{self.root}' for {lock.age_s:.0f} s, started by "
                    f"{lock.owner}; try again when it has ended"
                )
            if not reported:
                self._progress.message(
                    f"waiting for another deployment, started by {lock.owner} {lock.age_s:.0f} s ago"
                )
                reported = True
            time.sleep(1.0)

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def run_shell(connection: Connection, script: str, *arguments: str) -> str:
    """Run a shell script of `edgeexit.deploy.remote` on the device and return the clean lines of its output."""
    output = connection.run("sh", "-s", "--", *arguments, stdin=shell_script(script)).decode(errors="replace")
    return "\n".join(clean_text(line) for line in output.splitlines())


@contextlib.contextmanager
def open_device(address: Address, folder: str, *, progress: Progress = NO_PROGRESS) -> Iterator[Device]:
    """Connect to a device to inspect or roll back a deployment.

    Raises DeployError if the device cannot be reached or has no Python 3.10 or newer.
    """
    with Connection(address) as connection:
        facts = parse_facts(run_shell(connection, "facts.sh", folder, ""))
        python = next((python for python in facts.pythons if python.version >= OLDEST_PYTHON), None)
        if python is None:
            raise DeployError(f"'{address.host}' has no Python 3.10 or newer, so nothing can be deployed to it")
        yield Device(connection, python=python.program, root=facts.folder, progress=progress)
