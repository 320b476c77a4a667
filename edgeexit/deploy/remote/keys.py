"""The step `keys`: return public keys that the configuration names by paths on the device; change nothing."""

import os
import stat
from pathlib import Path

from edgeexit.deploy.remote.documents import KeyDocument, KeysArguments, KeysReply
from edgeexit.deploy.remote.layout import CURRENT

_MAX_BYTES = 16384
_FIRST_LINE = "-----BEGIN PUBLIC KEY-----"


def main(root: Path, arguments: KeysArguments) -> KeysReply:
    """Return the lines of each key, or why it cannot be read. A relative path is relative to the current release."""
    return {"keys": [_read(root / CURRENT / path, path) for path in arguments["paths"]]}


def _read(file: Path, path: str) -> KeyDocument:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return {"path": path, "lines": [], "error": "is not a regular file"}
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
            lines = opened.read(_MAX_BYTES).decode("ascii", "replace").splitlines()
    except OSError as error:
        return {"path": path, "lines": [], "error": str(error.strerror)}
    if lines[:1] != [_FIRST_LINE]:  # never send another file, for example a private key
        return {"path": path, "lines": [], "error": "is not a public key"}
    return {"path": path, "lines": lines, "error": None}
