"""Copy files to a device: skip complete files, resume incomplete ones, and verify the SHA-256 of each on the device."""

from collections.abc import Iterator, Sequence
from typing import Final

from edgeexit.deploy.device import Device
from edgeexit.deploy.payload import PayloadFile
from edgeexit.deploy.remote.documents import (
    FileEntry,
    FileState,
    InventoryArguments,
    InventoryReply,
    ReceiveArguments,
    ReceivedFile,
)
from edgeexit.deploy.steps import INVENTORY, RECEIVE
from edgeexit.errors import DeployError
from edgeexit.progress import NO_PROGRESS, Progress

_MAX_ATTEMPTS: Final = 2
"""How often a damaged file is sent before the copy fails."""


def file_entries(files: Sequence[PayloadFile], content_key: str) -> list[FileEntry]:
    """Return the files as arguments for the steps `inventory` and `receive`.

    A file of a release goes to `incoming/<content_key>/`, a wheel to `wheels/`.
    """
    return [
        {
            "path": file.name if file.is_wheel else f"incoming/{content_key}/{file.name}",
            "name": "" if file.is_wheel else file.name,
            "sha256": file.sha256,
            "size": file.size,
            "mode": file.mode,
        }
        for file in files
    ]


def missing_bytes(inventory: InventoryReply, files: Sequence[PayloadFile], content_key: str) -> int:
    """Return how many bytes of the files have to be sent."""
    states = [_state(inventory, entry) for entry in file_entries(files, content_key)]
    return sum(
        file.size - state["offset"] for file, state in zip(files, states, strict=True) if state["state"] == "missing"
    )


def copy_files(
    device: Device, files: Sequence[PayloadFile], content_key: str, *, progress: Progress = NO_PROGRESS
) -> int:
    """Copy all files to the device and return the number of bytes that were sent.

    `progress` advances by bytes. Raises DeployError if a file arrives damaged twice, if a local file becomes shorter,
    or if a file that exists only in the device's current release is missing there.
    """
    copy = _Copy(device, files, content_key, progress)
    for _ in range(_MAX_ATTEMPTS):
        damaged = device.retry(copy.send_missing)
        if not damaged:
            return copy.sent_bytes
    raise DeployError(
        f"'{damaged[0]}' arrived damaged {_MAX_ATTEMPTS} times; check that the local file does not change during the "
        "copy, and check the device's disk"
    )


class _Copy:
    """The state of one copy over several attempts; each attempt starts with the inventory of the device."""

    def __init__(self, device: Device, files: Sequence[PayloadFile], content_key: str, progress: Progress) -> None:
        self._device = device
        self._progress = progress
        self._entries = list(zip(files, file_entries(files, content_key), strict=True))
        self.sent_bytes = 0

    def send_missing(self) -> list[str]:
        """Send the files, or their missing ends, once; return the paths of the files that arrived damaged."""
        inventory = InventoryArguments(files=[entry for _, entry in self._entries], folders=[])
        reply = self._device.call_once(INVENTORY, inventory)
        to_send: list[tuple[PayloadFile, int]] = []
        received: list[ReceivedFile] = []
        for file, entry in self._entries:
            state = _state(reply, entry)
            if state["state"] == "missing":
                if file.source is None and file.content is None:
                    raise DeployError(
                        f"'{file.name}' of the device's current release is missing or has changed; give --config again"
                    )
                to_send.append((file, state["offset"]))
            if state["state"] != "present":
                received.append({**entry, "release": state["release"], "offset": state["offset"]})
        if not received:
            return []
        arguments = ReceiveArguments(files=received)
        return self._device.call_once(RECEIVE, arguments, lambda: self._stream(to_send))["damaged"]

    def _stream(self, files: Sequence[tuple[PayloadFile, int]]) -> Iterator[bytes]:
        total = self.sent_bytes + sum(file.size - offset for file, offset in files)
        for file, offset in files:
            for chunk in _read(file, offset):
                yield chunk
                self.sent_bytes += len(chunk)
                self._progress.advance(len(chunk), total)


def _state(inventory: InventoryReply, entry: FileEntry) -> FileState:
    """Return what the device has of a file. Raises DeployError for a state that cannot be."""
    state = inventory["files"].get(entry["path"])
    if (
        state is None
        or not 0 <= state["offset"] <= entry["size"]
        or (state["state"] == "in_release") != bool(state["release"])
    ):
        raise DeployError(f"the device reports an impossible state of '{entry['path']}': {state}; check the device")
    return state


def _read(file: PayloadFile, offset: int) -> Iterator[bytes]:
    if file.source is None:
        assert file.content is not None  # noqa: S101 - checked by the caller
        yield file.content[offset:]
        return
    yield from file.source.chunks(offset)
