"""Copies a release to a device: what is there stays, what has begun goes on, and every file is verified there."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from edgeexit.deploy.device import Device
from edgeexit.deploy.payload import PayloadFile
from edgeexit.errors import DeployError

_PIECE: Final = 1 << 16
_TRIES: Final = 2
"""How often a file may arrive damaged."""

OnBytes = Callable[[int, int], None]
"""Called with the bytes of this copy that are through, and with all of them."""


def described(files: Sequence[PayloadFile], key: str) -> list[dict[str, Any]]:
    """Return the files as the device's steps take them."""
    return [
        {
            "path": file.name if file.is_wheel else f"incoming/{key}/{file.name}",
            "name": "" if file.is_wheel else file.name,
            "sha256": file.sha256,
            "size": file.size,
            "mode": file.mode,
        }
        for file in files
    ]


def missing_bytes(inventory: dict[str, Any], files: Sequence[PayloadFile], key: str) -> int:
    """Return how many bytes have to be sent, by an answer of the step `inventory`."""
    states = [inventory["files"][entry["path"]] for entry in described(files, key)]
    return sum(
        file.size - state["offset"] for file, state in zip(files, states, strict=True) if state["kind"] == "missing"
    )


def copy_files(device: Device, files: Sequence[PayloadFile], key: str, on_bytes: OnBytes) -> int:
    """Bring all files to the device and return the bytes that were sent.

    Raises DeployError where a file arrives damaged again, or was to be taken from a release that does not have it.
    """
    sent = 0

    def once() -> list[str]:
        nonlocal sent
        states = device.call_once("inventory", files=described(files, key))["files"]
        pairs = zip(files, described(files, key), strict=True)
        lacking = [(file, entry, states[entry["path"]]) for file, entry in pairs]
        lacking = [(file, entry, state) for file, entry, state in lacking if state["kind"] != "there"]
        for file, _, state in lacking:
            if state["kind"] == "missing" and file.source is None and file.content is None:
                raise DeployError(f"'{file.name}' of the current release is gone or changed; give --config again")
        total = sum(file.size - state["offset"] for file, _, state in lacking if state["kind"] == "missing")

        def stream() -> Iterator[bytes]:
            nonlocal sent
            through = 0
            for file, _, state in lacking:
                if state["kind"] != "missing":
                    continue
                for piece in _read(file, state["offset"]):
                    yield piece
                    through += len(piece)
                    sent += len(piece)
                    on_bytes(through, total)

        entries = [{"offset": None, **entry, **state} for _, entry, state in lacking]
        damaged: list[str] = device.call_once("receive", stream, files=entries)["damaged"] if lacking else []
        return damaged

    for _ in range(_TRIES):
        damaged = device.retry(once)
        if not damaged:
            return sent
    raise DeployError(f"'{damaged[0]}' arrived damaged {_TRIES} times; does its source change, or is the disk failing?")


def _read(file: PayloadFile, offset: int) -> Iterator[bytes]:
    left = file.size - offset
    if file.source is None:
        assert file.content is not None  # noqa: S101 - refused before
        yield file.content[offset:]
        return
    with file.source.open("rb") as opened:
        opened.seek(offset)
        while left:
            piece = opened.read(min(left, _PIECE))
            if not piece:
                raise DeployError(f"'{file.source}' became shorter while it was copied; run the same command again")
            yield piece
            left -= len(piece)
