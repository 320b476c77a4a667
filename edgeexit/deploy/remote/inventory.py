"""The step `inventory`: report which files, environments and releases the device has; change nothing."""

import hashlib
import os
from pathlib import Path

from edgeexit.deploy.remote.documents import FileEntry, FileState, FolderSpace, InventoryArguments, InventoryReply
from edgeexit.deploy.remote.layout import (
    COMPLETE_FILE,
    RELEASES,
    VENVS,
    current_release_id,
    is_healthy,
    read_release,
    release_ids,
)


def main(root: Path, arguments: InventoryArguments) -> InventoryReply:
    """Return the current release, the complete environments, the state of each file and the free space."""
    current = current_release_id(root)
    releases = [*filter(None, [current]), *release_ids(root)]
    return {
        "current": read_release(root, current),
        "current_healthy": current is not None and is_healthy(root, current),
        "environments": [marker.parent.name for marker in (root / VENVS).glob(f"*/{COMPLETE_FILE}")],
        "files": {file["path"]: _state(root, file, releases) for file in arguments["files"]},
        "spaces": {folder: _space(Path(folder)) for folder in arguments["folders"]},
    }


def partial_path(root: Path, file: FileEntry) -> Path:
    """Return the path of an incomplete file. It depends on the SHA-256, so that different contents are not mixed."""
    return root / f"{file['path']}.{file['sha256'][:16]}.part"


def sha256_of(path: Path) -> str | None:
    """Return the hex SHA-256 of a file, or None if the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return None
    return digest.hexdigest()


def _space(folder: Path) -> FolderSpace:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    system = os.statvfs(existing)
    return {"file_system": existing.stat().st_dev, "free_bytes": system.f_bavail * system.f_frsize}


def _state(root: Path, file: FileEntry, releases: list[str]) -> FileState:
    if sha256_of(root / file["path"]) == file["sha256"]:
        return {"state": "present", "release": None, "offset": 0}
    for release in releases if file["name"] else ():
        existing = root / RELEASES / release / file["name"]
        if existing.is_file() and existing.stat().st_size == file["size"] and sha256_of(existing) == file["sha256"]:
            return {"state": "in_release", "release": release, "offset": 0}
    partial = partial_path(root, file)
    offset = min(partial.stat().st_size, file["size"]) if partial.exists() else 0
    return {"state": "missing", "release": None, "offset": offset}
