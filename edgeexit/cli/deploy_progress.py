"""How `edgeexit deploy` shows its progress, and what it prints after an interruption or a failed release."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from edgeexit.console import PrintedProgress, notes, printable
from edgeexit.progress import Progress

MIB: Final = 1 << 20
_INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
_STEPS_ON_DEVICE: Final = {"switch", "start", "rollback"}
"""During these steps the device continues without the client."""


class DeployProgress(PrintedProgress):
    """Shows the current step and the bytes copied: a bar on a terminal, otherwise one line per step."""

    def __init__(self, bar: RichProgress) -> None:
        self.current_step = ""
        self._bar = bar
        self._task = bar.add_task("connect", total=None, amount="")
        self._bytes = 0

    def step(self, name: str) -> None:
        """Show the name of the step."""
        self.current_step = name
        self._bytes = 0
        self._bar.reset(self._task, description=name, total=None, amount="")
        if not notes.is_terminal:
            notes.print(f"{name} ...")

    def advance(self, amount: int = 1, total: int | None = None) -> None:
        """Show the bytes copied."""
        self._bytes += amount
        of = "" if total is None else f" of {total / MIB:.1f}"
        self._bar.update(self._task, completed=self._bytes, total=total, amount=f"{self._bytes / MIB:.1f}{of} MiB")


@contextmanager
def show_deploy_progress() -> Iterator[Progress]:
    """Show the progress of a deployment or rollback on standard error while the block runs.

    If the release does not become healthy, print the last lines of its agent's log. After Ctrl-C, print what the
    device does now, and exit with code 130.
    """
    from edgeexit.deploy import NotHealthyError

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn()
    with RichProgress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        progress = DeployProgress(bar)
        try:
            yield progress
        except NotHealthyError as error:
            bar.stop()
            for line in error.log:
                notes.print(f"  {printable(line)}", soft_wrap=True)
            raise
        except KeyboardInterrupt:
            bar.stop()
            notes.print(
                "the device continues without this client; it rolls back if the new release does not become healthy"
                if progress.current_step in _STEPS_ON_DEVICE
                else "the agent on the device has not changed; run the same command again to continue"
            )
            raise typer.Exit(_INTERRUPTED) from None
