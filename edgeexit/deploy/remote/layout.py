"""The files under the folder of a deployment, and how the steps read and write them.

releases/<id>/   bundle/, agent.toml and its files, venv -> ../../venvs/<key>, state -> ../../state, release.json
current          -> releases/<id>, the release that the service runs
venvs/<key>/     Python environments; one without the file `complete` is created again
wheels/          the wheels that environments are installed from
incoming/<key>/  a release that is being copied
state/           the agent's state, shared by all releases
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from edgeexit.deploy.remote.documents import ReleaseDocument

RELEASES = "releases"
CURRENT = "current"
VENVS = "venvs"
WHEELS = "wheels"
INCOMING = "incoming"
STATE = "state"
CACHE = f"{STATE}/cache"
"""Files that the agent can recreate, for example TensorRT plan files."""
RELEASE_FILE = "release.json"
HEALTHY_FILE = "healthy"
COMPLETE_FILE = "complete"
OPERATION_LOCK = ".operation.lock"

_CHECKED = (RELEASES, VENVS, INCOMING)
_MAX_OPERATION_S = 1800.0


class StepError(Exception):
    """A step failed; the message is one line for the user."""


def check_owner(root: Path) -> None:
    """Raise StepError if the folder of the deployment, or a folder or link in it, belongs to another user.

    In a folder where others may write, such as `/tmp`, another user may have created it before, to be served as a
    release or to have files written elsewhere.
    """
    own = {os.geteuid()}
    for path in [root, *_entries(root), *(entry for name in _CHECKED for entry in _entries(root / name))]:
        with contextlib.suppress(FileNotFoundError):  # a step that still runs may remove releases
            owners = {path.lstat().st_uid, *([path.stat().st_uid] if path == root else [])}
            if not owners <= (own if path == root else own | {0}):
                raise StepError(
                    f"'{path}' belongs to another user (uid {max(owners - own)}), who could have planted it there; "
                    "remove it, or give another --path"
                )


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []


def send_reply(reply: Mapping[str, object]) -> None:
    """Send the reply of a step to the client. A prefix separates it from the output of a login shell."""
    _send({"reply": reply})


def send_error(message: str) -> None:
    """Send the error of a failed step, one line, to the client."""
    _send({"error": message})


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it cannot be read or is not valid JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_durably(path: Path, content: str) -> None:
    """Write a small file with mode 0600; after a power cut the file has its old or its new content."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_release_id(root: Path) -> str | None:
    """Return the id of the release that the link `current` names, or None."""
    try:
        name = (root / CURRENT).readlink().name
    except OSError:
        return None
    return name if (root / RELEASES / name / RELEASE_FILE).is_file() else None


def set_current_release(root: Path, release: str | None) -> None:
    """Point the link `current` to a release, atomically; None removes the link."""
    link = root / CURRENT
    if release is None:
        link.unlink(missing_ok=True)
    else:
        temporary = root / f".{CURRENT}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(RELEASES) / release)
        temporary.replace(link)
    fsync_folder(root)


def release_ids(root: Path) -> list[str]:
    """Return the ids of all complete releases, the oldest first."""
    return sorted(file.parent.name for file in (root / RELEASES).glob(f"*/{RELEASE_FILE}"))


def read_release(root: Path, release: str | None) -> ReleaseDocument | None:
    """Return the `release.json` of a release, or None if there is none."""
    document = None if release is None else read_json(root / RELEASES / release / RELEASE_FILE)
    return cast("ReleaseDocument | None", document)


def write_release(folder: Path, document: ReleaseDocument) -> None:
    """Write `release.json` into the folder of a release."""
    write_durably(folder / RELEASE_FILE, json.dumps(document, indent=2) + "\n")


def is_healthy(root: Path, release: str) -> bool:
    """Return True if the release has been healthy at least once on this device."""
    return (root / RELEASES / release / HEALTHY_FILE).is_file()


@contextlib.contextmanager
def operation_lock(root: Path) -> Iterator[None]:
    """Hold the lock for changing files under `root`; only one step holds it at a time.

    The step of an earlier client may hold it even if that client has died. Raises StepError after half an hour.
    """
    with (root / OPERATION_LOCK).open("a") as file:
        deadline = time.monotonic() + _MAX_OPERATION_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StepError(
                        f"an earlier step has been running in '{root}' for half an hour; run the command again later"
                    ) from None
                time.sleep(0.2)
        yield


def _send(message: Mapping[str, object]) -> None:
    # A login shell may have printed text without a line break before.
    sys.stdout.write(f"\nedgeexit-result {json.dumps(message)}\n")
    sys.stdout.flush()
