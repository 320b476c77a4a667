"""Makes the tree of files of a board's listing, with stand-ins for its programs that print what was recorded."""

import shlex
from collections import defaultdict
from pathlib import Path

BOARDS = Path(__file__).parent / "boards"
_PROGRAMS = {"nvpmodel": "usr/sbin", "vcgencmd": "usr/bin"}


def make_board(name: str, root: Path) -> Path:
    """Write the files of the listing `name` below the folder `root`, and return that."""
    printed: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in (BOARDS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        place, content = line.split(" = ", 1)
        if place.startswith("$ "):
            program, arguments = place[2:].split(" ", 1)
            printed[program][arguments].append(content)
        else:
            write(root, place, content)
    for program, told in printed.items():
        stand_in(root, program, {arguments: "\n".join(lines) for arguments, lines in told.items()})
    return root


def write(root: Path, place: str, content: object) -> Path:
    """Write what a file of the board holds; sysfs ends it with a line break, the device tree with a NUL."""
    path = root / place.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\0" if "device-tree" in place else f"{content}\n", encoding="utf-8")
    return path


def stand_in(root: Path, program: str, printed: dict[str, str]) -> None:
    """Put a program there that prints, by its arguments, what was recorded; any others fail."""
    cases = "".join(
        f"{shlex.quote(arguments)}) printf '%s\\n' {shlex.quote(text)};;\n" for arguments, text in printed.items()
    )
    path = root / _PROGRAMS[program] / program
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) exit 255;;\nesac\n', encoding="utf-8")
    path.chmod(0o755)
