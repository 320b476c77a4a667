"""Takes files in: what a release has by link, the rest from the connection, each from where it stopped."""

import os
import select
import shutil
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.inventory import partial, sha256_of
from edgeexit.deploy.remote.layout import INCOMING, RELEASES, RefusedError, answer, sync_folder

_PIECE = 1 << 16
_SILENCE_S = 60.0
"""A connection that brings nothing for so long is gone, even if the link has not told yet."""
_SYNC_BYTES = 8 << 20
"""What has come is made durable this often, so that a power cut costs no more."""


def main(arguments: dict[str, Any]) -> None:
    """Write each file of `files` and answer with the names of those that did not arrive as they were sent.

    Standard input is the bytes of all files whose state is missing, each from its offset to its end.
    """
    root = Path(arguments["root"])
    damaged = []
    (root / INCOMING).mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in arguments["files"]:
        path = root / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        part = partial(root, file)
        if file["offset"] is None:
            _take_over(root / RELEASES / file["release"] / file["name"], part)
        else:
            _append(part, file["offset"], file["size"], file["mode"])
        if sha256_of(part) != file["sha256"]:
            part.unlink()
            damaged.append(file["path"])
            continue
        part.replace(path)
        sync_folder(path.parent)
    answer(damaged=damaged)


def _take_over(source: Path, part: Path) -> None:
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # a file system without hard links
        shutil.copy2(source, part)


def _append(part: Path, offset: int, size: int, mode: int) -> None:
    """Write at the offset, never blindly at the end: then an earlier connection that still writes does no harm."""
    handle = os.open(part, os.O_RDWR | os.O_CREAT, mode)
    with os.fdopen(handle, "r+b") as file:
        os.fchmod(file.fileno(), mode)
        file.seek(offset)
        left, unsynced = size - offset, 0
        while left:
            waiting, _, _ = select.select([0], [], [], _SILENCE_S)
            piece = os.read(0, min(left, _PIECE)) if waiting else b""
            if not piece:
                raise RefusedError(f"'{part.name}': the connection ended {left} bytes before the file did")
            file.write(piece)
            file.flush()
            left -= len(piece)
            unsynced += len(piece)
            if unsynced >= _SYNC_BYTES:
                os.fsync(file.fileno())
                unsynced = 0
        file.truncate(size)
        os.fsync(file.fileno())
