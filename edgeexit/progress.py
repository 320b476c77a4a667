"""The interface through which a long operation reports its progress."""

from typing import Final


class Progress:
    """Receives the progress of one operation. This class ignores it; subclasses override methods to show it.

    Methods are called in the thread that runs the operation, and must not raise.
    """

    def step(self, name: str) -> None:
        """Receive the name of the step that starts now."""

    def advance(self, amount: int = 1, total: int | None = None) -> None:
        """Receive that `amount` more items (samples, bytes, stages) of the step are done, out of `total` if known."""

    def message(self, text: str) -> None:
        """Receive one line of information for the user."""

    def warning(self, text: str) -> None:
        """Receive one line of warning for the user."""


NO_PROGRESS: Final = Progress()
"""Ignores all progress: the default of every operation that reports progress."""
