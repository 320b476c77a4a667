"""Runs system programs with a time limit and returns their output."""

import subprocess
from typing import Final

_TIMEOUT_S: Final = 5


def output_of(program: str, *arguments: str) -> str | None:
    """Return the standard output of a program; None if it cannot run, fails, or takes longer than five seconds."""
    try:
        return subprocess.run(  # noqa: S603 - a system program, without arguments from users
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
