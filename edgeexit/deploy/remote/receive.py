"""The step `receive`: link files from installed releases, and read the others from the connection."""

import os
import select
import shutil
from pathlib import Path

from edgeexit.deploy.remote.documents import ReceiveArguments, ReceiveReply
from edgeexit.deploy.remote.inventory import partial_path, sha256_of
from edgeexit.deploy.remote.layout import INCOMING, RELEASES, StepError, fsync_folder

_CHUNK_BYTES = 1 << 16
_MAX_IDLE_S = 60.0
"""A connection over which nothing arrives for this long counts as lost, even if it is still open."""
_FSYNC_BYTES = 8 << 20
"""Received data is flushed to disk after this many bytes, so that a power cut loses no more than this."""


def main(root: Path, arguments: ReceiveArguments) -> ReceiveReply:
    """Write all files and return the paths of those whose SHA-256 is wrong.

    Standard input contains the bytes of all files that are not in a release, each from its offset to its end.
    """
    damaged = []
    (root / INCOMING).mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in arguments["files"]:
        path = root / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        partial = partial_path(root, file)
        if file["release"] is not None:
            _link_or_copy(root / RELEASES / file["release"] / file["name"], partial)
        else:
            _append(partial, file["offset"], file["size"], file["mode"])
        if sha256_of(partial) != file["sha256"]:
            partial.unlink()
            damaged.append(file["path"])
            continue
        partial.replace(path)
        fsync_folder(path.parent)
    return {"damaged": damaged}


def _link_or_copy(source: Path, partial: Path) -> None:
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, partial)


def _append(partial: Path, offset: int, size: int, mode: int) -> None:
    """Write from `offset` on, not at the end of the file: an earlier connection may still be writing the same bytes."""
    handle = os.open(partial, os.O_RDWR | os.O_CREAT, mode)
    with os.fdopen(handle, "r+b") as file:
        os.fchmod(file.fileno(), mode)
        file.seek(offset)
        remaining, unsynced = size - offset, 0
        while remaining:
            readable, _, _ = select.select([0], [], [], _MAX_IDLE_S)
            chunk = os.read(0, min(remaining, _CHUNK_BYTES)) if readable else b""
            if not chunk:
                raise StepError(
                    f"'{partial.name}': the connection ended {remaining} bytes before the end of the file; run the "
                    "same command again"
                )
            file.write(chunk)
            file.flush()
            remaining -= len(chunk)
            unsynced += len(chunk)
            if unsynced >= _FSYNC_BYTES:
                os.fsync(file.fileno())
                unsynced = 0
        file.truncate(size)
        os.fsync(file.fileno())
