"""Turns a release that has come whole into one that can be switched to."""

import json
import os
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.layout import (
    INCOMING,
    RELEASE_FILE,
    RELEASES,
    STATE,
    VENVS,
    answer,
    operation,
    release_ids,
    sync_folder,
    write_durably,
)


def main(arguments: dict[str, Any]) -> None:
    """Move `incoming/<key>` to `releases/<n>-<digest>` with its links and its document; answer with the id."""
    root = Path(arguments["root"])
    with operation(root):
        (root / RELEASES).mkdir(exist_ok=True)
        (root / STATE).mkdir(exist_ok=True, mode=0o700)
        numbers = [int(release.partition("-")[0]) for release in release_ids(root)]
        document = arguments["document"]
        release = f"{max(numbers, default=0) + 1:04}-{document['bundle'][:12]}"
        folder = root / INCOMING / arguments["key"]
        _link(folder / "venv", Path("../..") / VENVS / document["venv"])
        _link(folder / "state", Path("../..") / STATE)
        write_durably(folder / RELEASE_FILE, json.dumps({**document, "id": release}, indent=2) + "\n")
        sync_folder(folder / "bundle")
        sync_folder(folder)
        os.replace(folder, root / RELEASES / release)  # noqa: PTH105 - of a folder
        sync_folder(root / RELEASES)
        sync_folder(root / INCOMING)
    answer(id=release)


def _link(link: Path, to: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(to)
