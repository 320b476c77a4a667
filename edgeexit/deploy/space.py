"""Check the free space of every file system of a device that a deployment writes to."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from edgeexit.deploy.remote.documents import FolderSpace
from edgeexit.errors import DeployError

_RESERVE_BYTES: Final = 32 << 20
"""Free space that must remain on each file system."""


def check_space(needs: Mapping[str, int], spaces: Mapping[str, FolderSpace]) -> tuple[int, int]:
    """Return the bytes needed and free on the file system that is filled most.

    Args:
        needs: path of a folder on the device -> bytes that the deployment writes there, at most at the same time.
        spaces: the same path -> its file system. Folders may lie on different ones.

    Raises DeployError that names the folder, if a file system has too little space or the device did not report it.

    """
    folders: dict[int, list[str]] = defaultdict(list)
    for folder in needs:
        if folder not in spaces:
            raise DeployError(f"the device did not report the free space of '{folder}'")
        folders[spaces[folder]["file_system"]].append(folder)
    fullest = (0, 0)
    for group in folders.values():
        needed = sum(needs[folder] for folder in group) + _RESERVE_BYTES
        free = min(spaces[folder]["free_bytes"] for folder in group)
        if free < needed:
            largest = max(group, key=lambda folder: needs[folder])
            raise DeployError(
                f"'{largest}' on the device needs {needed / 2**20:.0f} MiB free and has {free / 2**20:.0f} MiB; free "
                "some space or give another --path"
            )
        if fullest == (0, 0) or free - needed < fullest[1] - fullest[0]:
            fullest = (needed, free)
    return fullest
