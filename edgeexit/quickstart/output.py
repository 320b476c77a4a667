"""Prints the heading of a step of the quickstart."""

from typing import Final

from rich.console import Console

_STEPS: Final = 7


def print_step(console: Console, number: int, title: str, text: str) -> None:
    """Print the number and the title of a step, and what it does."""
    console.print(f"\n[bold]{number}/{_STEPS} {title}[/]\n{text}")
