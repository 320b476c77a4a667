"""The commands that README and docs print exist, with the options that they are given."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from edgeexit.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "calibration" / "deploy" / "README.md"]


def printed_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split(" #")[0].strip()
                if command.startswith("edgeexit "):
                    found.append((page.name, command))
    return found


@pytest.mark.parametrize(("page", "command"), printed_commands())
def test_a_printed_command_can_be_parsed(page, command):
    group = typer.main.get_command(app)
    words = shlex.split(command.partition(" > ")[0])[1:]
    while hasattr(group, "commands"):
        context = group.make_context(group.name, words)  # a group may have a command that needs no name
        name, *words = (*context._protected_args, *context.args)
        assert name in group.commands, f"{page}: {command}"
        group = group.commands[name]
    group.make_context(name, words)


def test_the_readme_prints_commands_at_all():
    assert len({command for page, command in printed_commands() if page == "README.md"}) >= 6


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
