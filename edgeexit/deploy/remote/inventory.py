"""What of a deployment is on the device already; writes nothing."""

import hashlib
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.layout import (
    COMPLETE_FILE,
    RELEASES,
    VENVS,
    answer,
    current_id,
    is_healthy,
    read_release,
    release_ids,
)


def main(arguments: dict[str, Any]) -> None:
    """Answer with the state of every file: there, to be taken from a release, or how much of it came."""
    root = Path(arguments["root"])
    current = current_id(root)
    wanted = arguments.get("files", ())
    answer(
        current=read_release(root, current),
        current_healthy=current is not None and is_healthy(root, current),
        releases=[
            {"release": read_release(root, release), "healthy": is_healthy(root, release)}
            for release in release_ids(root)
        ],
        venvs=[marker.parent.name for marker in (root / VENVS).glob(f"*/{COMPLETE_FILE}")],
        files={file["path"]: _state(root, file, [*filter(None, [current]), *release_ids(root)]) for file in wanted},
    )


def partial(root: Path, file: dict[str, Any]) -> Path:
    """Return the name under which a file's first part waits for the rest; other content has another name."""
    return root / f"{file['path']}.{file['sha256'][:16]}.part"


def sha256_of(path: Path) -> str | None:
    """Return the hex SHA-256 of a file's bytes, or None where there is none that can be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return None
    return digest.hexdigest()


def _state(root: Path, file: dict[str, Any], releases: list[str]) -> dict[str, Any]:
    if sha256_of(root / file["path"]) == file["sha256"]:
        return {"kind": "there"}
    for release in releases if file["name"] else ():
        kept = root / RELEASES / release / file["name"]
        if kept.is_file() and kept.stat().st_size == file["size"] and sha256_of(kept) == file["sha256"]:
            return {"kind": "kept", "release": release}
    part = partial(root, file)
    return {"kind": "missing", "offset": min(part.stat().st_size, file["size"]) if part.exists() else 0}
