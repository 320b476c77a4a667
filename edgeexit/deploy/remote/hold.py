"""Holds the lock of a deployment for as long as the client is there."""

import contextlib
import fcntl
import json
import os
import select
import time
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.layout import answer, read_json

_SILENCE_S = 45.0
"""A client that says nothing for so long is gone, even if the link has not told yet."""


def main(arguments: dict[str, Any]) -> None:
    """Take the lock or say who has it; keep it until the client ends or falls silent.

    The kernel's lock ends with this process, so a power cut or a killed client leaves none behind.
    """
    root = Path(arguments["root"])
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".deploy.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_json(root / ".deploy.lock") or {}
            answer(
                held=False, owner=holder.get("owner", "somebody"), age_s=max(0, time.time() - holder.get("since", 0))
            )
            return
        file.truncate(0)
        json.dump({"owner": arguments["owner"], "since": time.time()}, file)
        file.flush()
        answer(held=True)
        with contextlib.suppress(OSError):
            while select.select([0], [], [], _SILENCE_S)[0] and os.read(0, 4096):
                pass
