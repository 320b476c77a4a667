"""Running commands as a user would, in this process."""

import sys
from typing import NamedTuple

import pytest

from edgeexit.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def edgeexit(monkeypatch, capsys):
    """Run `edgeexit ARGUMENTS...` and return exit code, standard output and standard error."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgeexit", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run
