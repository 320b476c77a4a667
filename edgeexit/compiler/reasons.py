"""Makes talkative libraries short: their errors one line to quote, where in the user's code, their log nothing."""

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

_MAX = 240
_STANDARD_LIBRARY = Path(contextlib.__file__).parent


class _Muted:
    """A stream that drops what this thread writes; others, such as a progress bar's, still reach it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def reason_of(error: BaseException) -> str:
    """Return the kind of an error and the first line of its text that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if line), "")
    if len(text) > _MAX:
        text = text[:_MAX] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cause_of(error: BaseException) -> BaseException:
    """Return the error that an error was raised from, and so on to the first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def place_in_user_code(error: BaseException, *, library: Path) -> str | None:
    """Return `file.py:line` of the innermost code that a library had called when it raised, or None: none of it.

    Args:
        error: as it was caught.
        library: folder of the library's own code.

    """
    called, place = False, None
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if library in path.parents:
            called = True
        elif called and path.is_file() and path.parent != _STANDARD_LIBRARY:
            place = f"{path.name}:{frame.lineno}"
    return place


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep log lines, warnings and prints back while the block runs; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(cast("TextIO", _Muted(sys.stdout))),
            contextlib.redirect_stderr(cast("TextIO", _Muted(sys.stderr))),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
