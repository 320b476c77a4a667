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
    RefusedError,
    answer,
    operation,
    read_release,
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
        for folder in document["configuration"]["writable"]:
            _make_writable(folder)
        release = f"{max(numbers, default=0) + 1:04}-{document['bundle'][:12]}"
        made = root / INCOMING / arguments["key"]
        if not made.exists() and (before := _finished(root, arguments["key"])) is not None:
            answer(id=before)  # the link dropped before it could be told
            return
        _link(made / "venv", Path("../..") / VENVS / document["venv"])
        _link(made / "state", Path("../..") / STATE)
        write_durably(made / RELEASE_FILE, json.dumps({**document, "id": release}, indent=2) + "\n")
        sync_folder(made / "bundle")
        sync_folder(made)
        os.replace(made, root / RELEASES / release)  # noqa: PTH105 - of a folder
        sync_folder(root / RELEASES)
        sync_folder(root / INCOMING)
    answer(id=release)


def _make_writable(folder: str) -> None:
    """Make a state folder of the device's own: a sandboxed agent could not, and does not even start without it."""
    advice = "make it there for this user, or leave state_dir out"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RefusedError(f"state_dir '{folder}' cannot be made ({error.strerror}); {advice}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RefusedError(f"state_dir '{folder}' cannot be written to by this user; {advice}")


def _finished(root: Path, key: str) -> str | None:
    """Return the newest release, where it was made of just this."""
    newest = next(reversed(release_ids(root)), None)
    return newest if (read_release(root, newest) or {}).get("key") == key else None


def _link(link: Path, to: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(to)
