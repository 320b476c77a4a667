"""The options and the user name that the commands of `edgeexit calibrator` share."""

from typing import Annotated

import typer

DatabaseOption = Annotated[str, typer.Option(help="SQLite file, or an SQLAlchemy database URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DATABASE = "sqlite:///calibrator.sqlite"
WIDE = 120
"""Width of the screen in characters from which tables have all columns."""


def current_user() -> str:
    """Return the name of the current user for the audit log; a container may only have a number."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
