"""Console output that all steps of the quickstart share."""

from typing import Final

from rich.console import Console

_STEPS: Final = 7


def print_step(console: Console, number: int, title: str, text: str) -> None:
    """Print the number, the title and the description of a step."""
    console.print(f"\n[bold]{number}/{_STEPS} {title}[/]\n{text}")
