"""The commands in README, docs and examples exist and accept the options that are shown; links lead to files."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from edgeexit.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    ROOT / "calibration" / "deploy" / "README.md",
]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split(" #")[0].strip().removesuffix(" &")
                if command.startswith("edgeexit "):
                    found.append((page_name(page), command))
    return found


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_a_shown_command_can_be_parsed(page, command):
    group = typer.main.get_command(app)
    words = shlex.split(command.partition(" > ")[0])[1:]
    while hasattr(group, "commands"):
        context = group.make_context(group.name, words)  # a group may have a default command
        name, *words = (*context._protected_args, *context.args)
        assert name in group.commands, f"{page}: {command}"
        group = group.commands[name]
    group.make_context(name, words)


def test_the_readme_shows_commands():
    assert len({command for page, command in shown_commands() if page == "README.md"}) >= 6


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_api_reference_covers_the_public_modules():
    from tests.public_api import MODULES  # noqa: PLC0415 - griffe is not needed for the other tests

    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert sorted(re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE)) == sorted(MODULES)
