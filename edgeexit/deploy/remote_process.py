"""A command on the device whose output is not trusted: its size and its time are limited.

A device may be damaged or hostile. It may send without end, send nothing, or read nothing. Each of these ends the
command with one error.
"""

import contextlib
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Final

from edgeexit.errors import DeployError

MAX_OUTPUT_BYTES: Final = 4 << 20
"""Maximum standard output of one command; the longest real reply is the state of some hundred files."""
_MAX_ERROR_BYTES: Final = 1 << 20
"""Maximum standard error of one command."""
_STALL_S: Final = 600.0
"""Maximum time for which the device may read nothing: it reads the next file after it has hashed the one before."""
_CHUNK_BYTES: Final = 1 << 16


class RemoteProcess:
    """A local `ssh` process that runs a command on the device.

    Args:
        command: the local command.
        device: name of the device in errors.

    """

    def __init__(self, command: Sequence[str], *, device: str) -> None:
        self._device = device
        self._process = subprocess.Popen(  # noqa: S603 - no local shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C must not reach ssh before this program handles it
        )
        self._received = 0
        self._pending = b""
        self._errors = bytearray()
        self._error_flood = False
        # A thread, because ssh would block when the pipe is full.
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        os.set_blocking(_pipe(self._process.stdin).fileno(), False)

    def write(self, data: bytes) -> None:
        """Send bytes to the command. Raises BrokenPipeError if it has ended, DeployError if it reads nothing."""
        handle = _pipe(self._process.stdin).fileno()
        view = memoryview(data)
        while view:
            if not _is_ready(handle, selectors.EVENT_WRITE, _STALL_S):
                raise DeployError(
                    f"'{self._device}' has read nothing for {_STALL_S:g} s, so the transfer was ended; check the "
                    "device and run the same command again"
                )
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(handle, view) :]

    def close_input(self) -> None:
        """Send the end of the input."""
        _close_quietly(self._process.stdin)

    def read_all(self, timeout_s: float) -> bytes:
        """Return the standard output up to its end. Raises DeployError if it is too long or takes too long."""
        deadline = time.monotonic() + timeout_s
        chunks = [self._pending]
        while chunk := self._read_chunk(deadline, timeout_s):
            chunks.append(chunk)
        self._pending = b""
        return b"".join(chunks)

    def read_line(self, prefix: bytes, timeout_s: float) -> bytes:
        """Return the next line with this prefix, or b"" at the end of the output. Raises DeployError as `read_all`."""
        deadline = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                if line.startswith(prefix):
                    return line
                continue
            chunk = self._read_chunk(deadline, timeout_s)
            if not chunk:
                return b""
            self._pending += chunk

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the process and return its exit status. Raises DeployError if it takes too long."""
        self.close_input()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._timeout_error(timeout_s) from None

    def errors(self) -> str:
        """Return the standard error of a process that has ended. Raises DeployError if it was too long."""
        self._reader.join(1.0)  # an old OpenSSH passes the pipe to the process that shares the connection
        if self._error_flood:
            raise DeployError(self._flood(_MAX_ERROR_BYTES, "messages"))
        return self._errors.decode(errors="replace")

    def kill(self) -> None:
        """End the process if it still runs, and close its pipes."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        _close_quietly(self._process.stdin)
        _close_quietly(self._process.stdout)

    def _read_chunk(self, deadline: float, timeout_s: float) -> bytes:
        handle = _pipe(self._process.stdout).fileno()
        if not _is_ready(handle, selectors.EVENT_READ, deadline - time.monotonic()):
            raise self._timeout_error(timeout_s)
        chunk = os.read(handle, _CHUNK_BYTES)
        self._received += len(chunk)
        if self._received > MAX_OUTPUT_BYTES:
            raise DeployError(self._flood(MAX_OUTPUT_BYTES, "output"))
        return chunk

    def _read_errors(self) -> None:
        with _pipe(self._process.stderr) as pipe, contextlib.suppress(OSError):
            while chunk := os.read(pipe.fileno(), _CHUNK_BYTES):
                self._errors += chunk
                if len(self._errors) > _MAX_ERROR_BYTES:
                    self._error_flood = True
                    self._process.kill()
                    return

    def _flood(self, limit: int, what: str) -> str:
        return (
            f"'{self._device}' sent more than {limit >> 20} MiB of {what} for one command, so the command was ended; "
            "check what its login shell prints"
        )

    def _timeout_error(self, timeout_s: float) -> DeployError:
        return DeployError(f"'{self._device}' did not finish a command within {timeout_s:g} s, so it was ended")


def _is_ready(handle: int, event: int, timeout_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(handle, event)
        return bool(selector.select(max(0.0, timeout_s)))


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - the constructor opens all three
    return pipe


def _close_quietly(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()
