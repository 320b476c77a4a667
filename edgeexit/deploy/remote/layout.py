"""Where things are under the folder of a deployment, and the few ways in which they are written.

releases/<id>/   bundle/, agent.toml and its files, venv -> ../../venvs/<key>, state -> ../../state, release.json
current          -> releases/<id>, what the service runs
venvs/<key>/     environments; one without its file `complete` is made again
wheels/          what environments are made of
incoming/<key>/  a release that is being copied
state/           the agent's own, kept over all releases
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RELEASES = "releases"
CURRENT = "current"
VENVS = "venvs"
WHEELS = "wheels"
INCOMING = "incoming"
STATE = "state"
CACHE = f"{STATE}/cache"
"""Of what agents make for themselves, as TensorRT plans."""
RELEASE_FILE = "release.json"
HEALTHY_FILE = "healthy"
COMPLETE_FILE = "complete"

_MAX_OPERATION_S = 1800.0


class RefusedError(Exception):
    """What the device says no to, in one line."""


def answer(**fields: Any) -> None:
    """Tell the client what came out; the mark tells it apart from what a login shell may print."""
    sys.stdout.write(f"edgeexit-result {json.dumps(fields)}\n")
    sys.stdout.flush()


def read_json(path: Path) -> Any:
    """Return a JSON file's content, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_durably(path: Path, content: str) -> None:
    """Write a small file, for its owner only, so that a power cut leaves the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_id(root: Path) -> str | None:
    """Return the id of the release that `current` names, or None."""
    try:
        name = (root / CURRENT).readlink().name
    except OSError:
        return None
    return name if (root / RELEASES / name / RELEASE_FILE).is_file() else None


def point_current(root: Path, release: str | None) -> None:
    """Let `current` name a release, in one step; None removes it."""
    link = root / CURRENT
    if release is None:
        link.unlink(missing_ok=True)
    else:
        temporary = root / f".{CURRENT}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(RELEASES) / release)
        temporary.replace(link)
    sync_folder(root)


def release_ids(root: Path) -> list[str]:
    """Return the ids of all whole releases, oldest first."""
    return sorted(file.parent.name for file in (root / RELEASES).glob(f"*/{RELEASE_FILE}"))


def read_release(root: Path, release: str | None) -> Any:
    """Return a release's document, or None."""
    return None if release is None else read_json(root / RELEASES / release / RELEASE_FILE)


def is_healthy(root: Path, release: str) -> bool:
    """Return whether a release has ever served as it should, here."""
    return (root / RELEASES / release / HEALTHY_FILE).is_file()


@contextlib.contextmanager
def operation(root: Path) -> Iterator[None]:
    """Let one step at a time change things, also where the client of an earlier one is gone and it still runs.

    Raises RefusedError when an earlier one does not end.
    """
    with (root / ".operation.lock").open("a") as file:
        deadline = time.monotonic() + _MAX_OPERATION_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RefusedError(f"an earlier step still works in '{root}'; try again later") from None
                time.sleep(0.2)
        yield
