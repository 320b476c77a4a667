"""Load by `edgeexit fleet simulate`, whose own comparison with the database is one more check."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeexit.bundle import Bundle
from scripts.chaoslab.processes import ForkedProcess
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, wait_until
from scripts.chaoslab.watcher import FLEET

_SAMPLES = 200
_LONG, _SHORT = 300, 40
"""Devices, and reports per second."""
_SETTLE_S = 170


class LoadResult(msgspec.Struct, frozen=True):
    """What a simulated fleet has sent, and whether the database contains exactly that."""

    exact: bool
    text: str


class SimulatedLoad:
    """A simulated fleet that sends until `finish`.

    Args:
        folder: a new folder for its samples and its output.
        bundle: the bundle that its devices run.
        url: the broker.
        database: compared at the end.
        long: whether the long form runs.
        shards: number of shards of its devices.

    """

    def __init__(
        self, folder: Path, bundle: Bundle, url: str, database: StoredDatabase, *, long: bool, shards: int = 1
    ) -> None:
        folder.mkdir()
        self._output, self._log = folder / "simulate.json", folder / "simulate.log"
        (field,) = bundle.manifest.inputs
        generator = np.random.default_rng(1)
        samples = folder / "samples.npz"
        np.savez(samples, **{field.name: generator.standard_normal((_SAMPLES, int(field.shape[1]))).astype(np.float32)})
        size = str(_LONG if long else _SHORT)
        arguments = ["fleet", "simulate", "--bundle", str(bundle.path), "--data", str(samples), "--fleet", FLEET]
        arguments += ["--devices", size, "--rate", size, "--shards", str(shards), "--broker", url]
        arguments += ["--database", database.url, "--resend", "15s", "--settle", f"{_SETTLE_S}s", "--json"]
        self._process = ForkedProcess(_simulate, arguments, self._output, self._log)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        self._process.kill()

    def wait_for_load(self) -> None:
        """Wait until the first messages are acknowledged."""
        wait_until(lambda: not self._process.alive or " acknowledged (" in self._text(), GENEROUS_S)

    def finish(self) -> LoadResult:
        """End the load, wait for the acknowledgements, and compare with the database."""
        self._process.signal(signal.SIGTERM)
        self._process.wait(_SETTLE_S + GENEROUS_S)
        try:
            outcome: dict[str, Any] = msgspec.json.decode(self._output.read_bytes())
        except (OSError, msgspec.DecodeError):
            return LoadResult(exact=False, text=f"edgeexit fleet simulate has failed: {self._text()[-500:]}")
        text = (
            f"{outcome['devices']} devices: {outcome['acknowledged_reports']} of {outcome['reports']} reports "
            f"acknowledged, {outcome['audited_samples']} audited samples, {outcome['copies']} copies"
        )
        found = self._process.exit_code
        return LoadResult(exact=found == 0 and not outcome["unanswered"], text=f"{text}; exit code {found}")

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _simulate(arguments: list[str], output: Path, log: Path) -> None:
    from edgeexit.cli.main import main  # noqa: PLC0415 - the server has imported it

    for number, path in ((1, output), (2, log)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.argv = ["edgeexit", *arguments]
    main()
