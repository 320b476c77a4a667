"""What a long operation reports to its caller while it runs."""

from typing import Final


class Progress:
    """Receives the progress of one operation. This class ignores everything; subclasses show what they want to show.

    Methods are called in the thread that runs the operation, and must not raise.
    """

    def step(self, name: str) -> None:
        """Receive the name of the step that starts now."""

    def advance(self, amount: int = 1, total: int | None = None) -> None:
        """Receive how many more items (samples, bytes, stages) of the current step are done, and of how many if known."""

    def message(self, text: str) -> None:
        """Receive one line of information for the user."""

    def warning(self, text: str) -> None:
        """Receive one line that the user should act on or know about."""


NO_PROGRESS: Final = Progress()
"""Ignores everything: the default of every operation that reports progress."""
