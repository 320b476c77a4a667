"""The step `watch`: report the progress of an activation; change nothing."""

import fcntl
from pathlib import Path
from typing import cast

from edgeexit.deploy.remote.activate import ACTIVATION_FILE
from edgeexit.deploy.remote.documents import ActivationDocument, WatchArguments, WatchReply
from edgeexit.deploy.remote.layout import OPERATION_LOCK, read_json


def main(root: Path, arguments: WatchArguments) -> WatchReply:
    """Return the progress of the activation with this ticket, and whether a step is still running."""
    working = _is_working(root)  # read first: if no step is running, the progress that is read next is final
    activation = cast("ActivationDocument | None", read_json(root / ACTIVATION_FILE))
    is_requested = activation is not None and activation["ticket"] == arguments["ticket"]
    return {"activation": activation if is_requested else None, "working": working}


def _is_working(root: Path) -> bool:
    with (root / OPERATION_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
