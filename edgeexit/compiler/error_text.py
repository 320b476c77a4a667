"""Shortens the errors of libraries to one line, and finds the place in the user's code."""

import contextlib
import traceback
from pathlib import Path

_MAX_LENGTH = 240
_STANDARD_LIBRARY = Path(contextlib.__file__).parent


def reason_of(error: BaseException, *, without: str = "") -> str:
    """Return `Class: message` with the first line of the message that is not empty, or `Class` without a message.

    `without` is text that the caller's message has already, such as a path; it would displace the reason.
    """
    lines = (line.strip() for line in (str(error).replace(without, "") if without else str(error)).splitlines())
    text = next((line for line in lines if line), "")
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cause_of(error: BaseException) -> BaseException:
    """Return the first error of the chain of causes that led to an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def place_in_user_code(error: BaseException, *, library: Path) -> str | None:
    """Return `file.py:line` of the innermost frame of user code that a library called, or None if there is none.

    Args:
        error: the caught error.
        library: folder of the library's code; frames in it and in the standard library are not user code.

    """
    called, place = False, None
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if library in path.parents:
            called = True
        elif called and path.is_file() and path.parent != _STANDARD_LIBRARY:
            place = f"{path.name}:{frame.lineno}"
    return place
