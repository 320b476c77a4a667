"""Waits for a condition, and ends every wait when the command is interrupted."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

INTERRUPTED: Final = threading.Event()
"""Set by Ctrl-C: every wait raises `InterruptedError`, so that each situation ends what it has started."""
GENEROUS_S: Final = 180.0
"""Limit of a wait for what must happen. It is far above the time on a busy machine, so only what never comes fails."""


def wait_until(condition: Callable[[], Any], timeout_s: float, *, every_s: float = 0.05) -> Any:
    """Wait until a condition returns a true value, and return it; return the last value after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        if INTERRUPTED.wait(every_s):
            raise InterruptedError
    return value


def pause(seconds: float) -> None:
    """Wait for a time."""
    if INTERRUPTED.wait(max(seconds, 0)):
        raise InterruptedError
