"""Output of the commands: tables for people, JSON for scripts, progress, warnings and the next step to take."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from edgeexit.progress import Progress

_INDENT = 2
_PLAIN_WIDTH = 160
"""Width in characters of a table in a file or pipe, where the width of the reader's screen is not known."""


def _console(*, stderr: bool = False) -> Console:
    """Return a console: styled on a terminal; elsewhere plain text without wrapped lines."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, soft_wrap=not terminal, width=None if terminal else _PLAIN_WIDTH)


console = _console()
"""Prints results to standard output."""
notes = _console(stderr=True)
"""Prints progress, warnings and errors to standard error, so that `--json` prints only JSON to standard output."""


def print_json(value: Any) -> None:
    """Print a struct or plain data as indented JSON; characters that could control a terminal are escaped."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(re.sub(r"[^\n -~]", _escape_unprintable, text) + "\n")


def print_json_line(value: Any) -> None:
    """Print a struct or plain data as JSON in one line, for lists that are longer than memory."""
    sys.stdout.write(re.sub(r"[^ -~]", _escape_unprintable, msgspec.json.encode(value).decode()) + "\n")


def _escape_unprintable(match: "re.Match[str]") -> str:
    """Return a character of a JSON string, as JSON escapes of its UTF-16 units if it is not printable."""
    character = match[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, to: Console = console) -> None:
    """Print a table; the first column is aligned left, the others right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.ROUNDED if to.is_terminal else box.MARKDOWN,  # a pipe gets plain text
    )
    for index, column in enumerate(columns):
        # Names are folded, not cut, because readers copy them.
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    to.print(table)


def printable(text: object) -> str:
    """Return `text` for `console.print` with markup escaped and control characters replaced.

    Use it for every text that comes from a file, a user or a device.
    """
    return escape(
        "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))
    )


def print_indented(text: object) -> None:
    """Print text from any source indented; on a terminal, its wrapped lines are indented too."""
    line = printable(text)
    console.print(Padding(line, (0, 0, 0, _INDENT)) if console.is_terminal else " " * _INDENT + line)


def next_step(text: str) -> None:
    """Print the next step for the user: a command or an action."""
    console.print(f"[dim]next:[/] {printable(text)}", soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error as one line on standard error."""
    notes.print(f"[red]error:[/] {printable(text)}", soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning as one line on standard error."""
    notes.print(f"[yellow]warning:[/] {printable(text)}", soft_wrap=True)


@contextmanager
def show_progress(name: str, *, total: int | None = None, steps: Sequence[str] = ()) -> Iterator[Progress]:
    """Yield a `Progress` that shows an operation as a bar on standard error while the block runs.

    If standard error is not a terminal, there is no bar, but messages and warnings are printed.

    Args:
        name: name of the operation.
        total: number of items, if it is known; the bar counts them.
        steps: names of all steps, if they are known; then the bar counts finished steps, not items.

    """
    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )
    with bar:
        yield _BarProgress(bar, name, total=len(steps) if steps else total, steps=steps)


class PrintedProgress(Progress):
    """Prints messages and warnings above a progress bar; subclasses show the steps."""

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        notes.print(printable(text), soft_wrap=True)

    def warning(self, text: str) -> None:
        """Print a warning above the bar."""
        warn(text)


class _BarProgress(PrintedProgress):
    """Shows the progress of an operation on a bar."""

    def __init__(self, bar: RichProgress, name: str, *, total: int | None, steps: Sequence[str]) -> None:
        self._bar = bar
        self._name = name
        self._steps = steps
        self._task = bar.add_task(name, total=total)

    def step(self, name: str) -> None:
        """Show the name of the step. If all steps are known, show how many are finished; otherwise count from 0."""
        description = f"{self._name}: {name}"
        if self._steps:
            self._bar.update(self._task, description=description, completed=self._steps.index(name))
        else:
            self._bar.remove_task(self._task)
            self._task = self._bar.add_task(description, total=None)

    def advance(self, amount: int = 1, total: int | None = None) -> None:
        """Advance the bar by `amount` items, unless it counts steps."""
        if not self._steps:
            self._bar.update(self._task, advance=amount, total=total)
