"""The step `lock`: hold the lock of a deployment for as long as the client is connected."""

import contextlib
import fcntl
import json
import os
import select
import time
from pathlib import Path

from edgeexit.deploy.remote.documents import LockArguments, LockReply
from edgeexit.deploy.remote.layout import read_json, send_reply

_MAX_IDLE_S = 45.0
"""A client that sends nothing for this long counts as disconnected, even if the connection is still open."""


def main(root: Path, arguments: LockArguments) -> None:
    """Take the lock, reply, and keep the lock until the client disconnects or sends nothing for 45 s.

    The kernel releases the lock when this process ends, so no lock remains after a power cut or a killed client.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    root.chmod(root.stat().st_mode & ~0o022)  # no other user may plant a file there later
    with (root / ".deploy.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_json(root / ".deploy.lock") or {}
            _reply(
                acquired=False,
                owner=holder.get("owner", "an unknown user"),
                age_s=max(0.0, time.time() - holder.get("since", 0)),
            )
            return
        file.truncate(0)
        json.dump({"owner": arguments["owner"], "since": time.time()}, file)
        file.flush()
        _reply(acquired=True, owner=arguments["owner"], age_s=0.0)
        with contextlib.suppress(OSError):
            while select.select([0], [], [], _MAX_IDLE_S)[0] and os.read(0, 4096):
                pass


def _reply(*, acquired: bool, owner: str, age_s: float) -> None:
    reply: LockReply = {"acquired": acquired, "owner": owner, "age_s": age_s}
    send_reply(reply)
