"""A calibrator in a process of its own, which can be killed, stopped and started again."""

import signal
from collections.abc import Sequence
from pathlib import Path

from scripts.chaoslab.processes import ForkedProcess, run_command
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, wait_until
from scripts.chaoslab.watcher import FLEET

_SERVES = ("leads fleet", "stores ")
"""What a calibrator logs when it leads the fleet, or stores the messages of shards."""


class Calibrator:
    """A calibrator in a process of its own, which can be killed and started again with its database.

    Args:
        folder: a new folder for its log, and for its SQLite file.
        url: the broker.
        key: file of the private key that signs policies.
        database: SQLAlchemy URL, as seen by the calibrator; None: an SQLite file in the folder.
        stored: SQLAlchemy URL under which the laboratory reads the database; None: the same.
        options: further options of `edgeexit calibrator run`.

    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        key: Path,
        database: str | None = None,
        stored: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        database = database or f"sqlite:///{folder / 'calibrator.sqlite'}"
        self.database = StoredDatabase(stored or database)
        self._log = folder / "calibrator.log"
        self._arguments = ["calibrator", "run", "--database", database, "--broker", url, "--fleet", FLEET]
        self._arguments += ["--key", str(key), "--check-interval", "2", *options]
        self._process: ForkedProcess | None = None
        self._known = 0

    @property
    def alive(self) -> bool:
        """True while its process runs."""
        return self._process is not None and self._process.alive

    @property
    def log(self) -> str:
        """What the newest start has logged, or what it has logged since `forget_log`."""
        return self._log.read_text(errors="replace")[self._known :] if self._log.exists() else ""

    @property
    def ready(self) -> bool:
        """True when the newest start leads the fleet, or stores the messages of shards."""
        log = self.log
        return any(text in log for text in _SERVES)

    def forget_log(self) -> None:
        """Let `log` begin here."""
        self._known += len(self.log)

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._known = len(self._log.read_text(errors="replace")) if self._log.exists() else 0
        self._process = ForkedProcess(run_command, self._arguments, self._log)

    def start(self) -> None:
        """Start it, and wait until it serves the fleet. Raises RuntimeError with the end of its log if it is not."""
        self.launch()
        wait_until(lambda: not self.alive or self.ready, GENEROUS_S)
        if not self.alive or not self.ready:
            raise RuntimeError(f"the calibrator did not start:\n{self.log[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            self._process.signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until its process has ended by itself; return False after the timeout."""
        return self._process is None or self._process.wait(timeout_s)
