"""Starts processes by forking a server that has imported everything, so that an agent starts in a tenth of a second."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTS = ("edgeexit.agent", "edgeexit.cli.main", "edgeexit_calibration", "onnxruntime", "scipy.stats")


def start_server() -> None:
    """Start the process that the others are forked from. Call this in the main thread, before any other thread."""
    from multiprocessing import forkserver  # noqa: PLC0415 - it has no other use

    _CONTEXT.set_forkserver_preload(list(_IMPORTS))
    forkserver.ensure_running()


class ForkedProcess:
    """A process that runs a function. It ends with its parent."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._process: Any = _CONTEXT.Process(target=_run, args=(function, *arguments), daemon=True)
        self._process.start()

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return bool(self._process.is_alive())

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; return False after the timeout."""
        self._process.join(timeout_s)
        return not self.alive


def run_command(arguments: list[str], log: Path) -> None:
    """Run a command of `edgeexit` in this process, with its output in a file."""
    from edgeexit.cli.main import main  # noqa: PLC0415 - the server has imported it

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["edgeexit", *arguments]
    main()


def _run(function: Callable[..., None], *arguments: Any) -> None:
    import threading  # noqa: PLC0415 - in the new process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
