"""Shortens the errors of libraries to one line, and finds the place in the user's code."""

import contextlib
import inspect
import re
import traceback
from pathlib import Path

import edgeexit

_MAX_LENGTH = 240
_STANDARD_LIBRARY = Path(contextlib.__file__).parent
_PACKAGE = Path(edgeexit.__file__).parent
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+)')


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
        library: folder of the library's code; frames in it, in the standard library and in this package are not user
            code.

    """
    called, place = False, None
    for frame in traceback.extract_tb(error.__traceback__):
        if library in Path(frame.filename).parents:
            called = True
        elif called and _is_user_code(frame.filename, library):
            place = _place(frame.filename, frame.lineno or 0)
    return place


def place_in_stack_trace(text: str, *, library: Path) -> str | None:
    """Return `file.py:line` of the innermost frame of user code in the text of a stack trace, or None."""
    frames = [match for match in _FRAME.finditer(text) if _is_user_code(match["path"], library)]
    return _place(frames[-1]["path"], int(frames[-1]["line"])) if frames else None


def place_of_caller(*, library: Path) -> str | None:
    """Return `file.py:line` of the innermost frame of user code that runs now, or None if there is none."""
    for frame, line in traceback.walk_stack(inspect.currentframe()):
        if _is_user_code(frame.f_code.co_filename, library):
            return _place(frame.f_code.co_filename, line)
    return None


def place_of(filename: str, line: int, *, library: Path) -> str | None:
    """Return `file.py:line`, or None if the file is not user code."""
    return _place(filename, line) if _is_user_code(filename, library) else None


def _is_user_code(filename: str, library: Path) -> bool:
    path = Path(filename)
    return path.is_file() and path.parent != _STANDARD_LIBRARY and not {library, _PACKAGE} & {*path.parents}


def _place(filename: str, line: int) -> str:
    return f"{Path(filename).name}:{line}"
