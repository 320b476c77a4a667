"""Recreates a board's sysfs files from a listing, with fake programs that print recorded output."""

import shlex
from collections import defaultdict
from pathlib import Path

BOARDS = Path(__file__).parent / "boards"
_PROGRAMS = {"nvpmodel": "usr/sbin", "vcgencmd": "usr/bin"}


def make_board(name: str, root: Path) -> Path:
    """Write the files of the listing `name` below the folder `root`, and return `root`."""
    printed: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in (BOARDS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        file, content = line.split(" = ", 1)
        if file.startswith("$ "):
            program, arguments = file[2:].split(" ", 1)
            printed[program][arguments].append(content)
        else:
            write(root, file, content)
    for program, outputs in printed.items():
        fake_program(root, program, {arguments: "\n".join(lines) for arguments, lines in outputs.items()})
    return root


def write(root: Path, file: str, content: object) -> Path:
    """Write a file of the board. In sysfs it ends with a line break, in the device tree with a NUL."""
    path = root / file.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\0" if "device-tree" in file else f"{content}\n", encoding="utf-8")
    return path


def fake_program(root: Path, program: str, printed: dict[str, str]) -> None:
    """Write a program that prints the recorded output for its arguments, and fails for other arguments."""
    cases = "".join(
        f"{shlex.quote(arguments)}) printf '%s\\n' {shlex.quote(text)};;\n" for arguments, text in printed.items()
    )
    path = root / _PROGRAMS[program] / program
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) exit 255;;\nesac\n', encoding="utf-8")
    path.chmod(0o755)
