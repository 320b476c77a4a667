"""Asking a program of the system for a line or a few, within seconds."""

import subprocess
from typing import Final

_PATIENCE_S: Final = 5


def ask(program: str, *arguments: str) -> str | None:
    """Return what a program prints; None where it cannot be run, fails or takes longer than five seconds."""
    try:
        return subprocess.run(  # noqa: S603 - a program of the system, without arguments from outside
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
