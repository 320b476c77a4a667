"""The step `keys`: return public keys that the configuration names by paths on the device; change nothing."""

import os
import stat
from pathlib import Path

from edgeexit.deploy.remote.documents import KeyDocument, KeysArguments, KeysReply
from edgeexit.deploy.remote.layout import CURRENT

_MAX_BYTES = 16384
_FIRST_LINE, _LAST_LINE = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"


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
    # Nothing else is sent: the file could hold a private key. Comments may surround a key, as in the agent's files.
    key = lines[lines.index(_FIRST_LINE) :] if _FIRST_LINE in lines else []
    if _LAST_LINE not in key:
        return {"path": path, "lines": [], "error": "is not a public key"}
    return {"path": path, "lines": key[: key.index(_LAST_LINE) + 1], "error": None}
