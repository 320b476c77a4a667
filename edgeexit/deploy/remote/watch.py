"""Tells how far an activation is, and what runs now; changes nothing."""

import fcntl
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.activate import ACTIVATION_FILE
from edgeexit.deploy.remote.layout import (
    RELEASES,
    answer,
    current_id,
    is_healthy,
    read_json,
    read_release,
    release_ids,
)
from edgeexit.deploy.remote.service import AgentService, trouble


def main(arguments: dict[str, Any]) -> None:
    """Answer with the activation of `ticket`; without one, with the releases and the health of the current one."""
    root = Path(arguments["root"])
    if "ticket" in arguments:
        working = _is_working(root)  # first: what is told after it has ended is final
        activation = read_json(root / ACTIVATION_FILE) or {}
        ours = activation.get("ticket") == arguments["ticket"]
        answer(activation=activation if ours else None, working=working)
        return
    current = current_id(root)
    document = read_release(root, current)
    service = None if document is None else AgentService(root, document["service"], document["name"])
    answer(
        current=current,
        releases=[
            {
                "release": read_release(root, release),
                "healthy": is_healthy(root, release),
                "has_policy": (root / RELEASES / release / "bundle" / "policy.json").is_file(),
            }
            for release in release_ids(root)
        ],
        pid=None if service is None else service.pid(),
        trouble=None if document is None else trouble(document),
        log=[] if service is None else service.log_tail(arguments["log_lines"]),
    )


def _is_working(root: Path) -> bool:
    with (root / ".operation.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
