"""The step `finish`: turn the copied files into a release that can be activated."""

import os
from pathlib import Path

from edgeexit.deploy.remote.documents import FinishArguments, FinishReply
from edgeexit.deploy.remote.layout import (
    INCOMING,
    RELEASES,
    STATE,
    VENVS,
    StepError,
    fsync_folder,
    operation_lock,
    read_release,
    release_ids,
    write_release,
)


def main(root: Path, arguments: FinishArguments) -> FinishReply:
    """Move `incoming/<content key>` to `releases/<n>-<digest>`, add its links and `release.json`, and return its id."""
    release = arguments["release"]
    with operation_lock(root):
        (root / RELEASES).mkdir(exist_ok=True)
        (root / STATE).mkdir(exist_ok=True, mode=0o700)
        numbers = [int(existing.partition("-")[0]) for existing in release_ids(root)]
        for writable in release["configuration"]["writable_folders"]:
            _create_writable_folder(writable)
        release_id = f"{max(numbers, default=0) + 1:04}-{release['bundle'][:12]}"
        folder = root / INCOMING / release["content_key"]
        if not folder.exists() and (finished := _finished_release(root, release["content_key"])) is not None:
            return {"id": finished}  # the connection was lost before the client got the reply
        _replace_link(folder / "venv", Path("../..") / VENVS / release["environment"])
        _replace_link(folder / "state", Path("../..") / STATE)
        write_release(folder, {**release, "id": release_id, "replaces": None})
        fsync_folder(folder / "bundle")
        fsync_folder(folder)
        os.replace(folder, root / RELEASES / release_id)  # noqa: PTH105 - a folder
        fsync_folder(root / RELEASES)
        fsync_folder(root / INCOMING)
    return {"id": release_id}


def _create_writable_folder(folder: str) -> None:
    """Create an absolute state folder. The sandboxed agent cannot create it, and does not start without it."""
    advice = "create it on the device for this user, or remove state_dir from the configuration"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StepError(f"state_dir '{folder}' cannot be created ({error.strerror}); {advice}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StepError(f"state_dir '{folder}' is not writable for this user; {advice}")


def _finished_release(root: Path, content_key: str) -> str | None:
    """Return the id of the newest release if it has this content, else None."""
    newest = next(reversed(release_ids(root)), None)
    document = read_release(root, newest)
    return newest if document is not None and document["content_key"] == content_key else None


def _replace_link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
