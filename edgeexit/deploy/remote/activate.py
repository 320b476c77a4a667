"""Switches to a release, waits until it serves, and goes back by itself when it does not.

This runs on, detached from the connection, so that a link that drops in these seconds leaves no device without its
agent. What it does and what came out is in `activation.json`, which `watch.py` reads.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.layout import (
    HEALTHY_FILE,
    INCOMING,
    RELEASE_FILE,
    RELEASES,
    VENVS,
    WHEELS,
    RefusedError,
    answer,
    current_id,
    is_healthy,
    operation,
    point_current,
    read_release,
    release_ids,
    write_durably,
)
from edgeexit.deploy.remote.service import AgentService, occupied, trouble

ACTIVATION_FILE = "activation.json"

_LOG_LINES = 12
_LOOK_S = 0.3
_DEATHS = 2
"""A supervisor that had to start it again so often need not be asked any longer."""


def main(arguments: dict[str, Any]) -> None:
    """Answer at once; a child of this process does the work."""
    root = Path(arguments["root"])
    _tell(root, arguments["ticket"], step="waiting")
    if os.fork():
        answer()
        return
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    try:
        with operation(root):  # held until the outcome is told: who finds the lock free and none knows that this died
            _tell(root, arguments["ticket"], step="done", **_outcome(root, arguments))
    except RefusedError as error:
        _tell(root, arguments["ticket"], step="done", outcome="failed", reason=str(error), log=[])
    os._exit(0)


def _outcome(root: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return _activate(root, arguments)
    except RefusedError as error:
        return {"outcome": "failed", "reason": str(error), "log": []}
    except OSError as error:
        return {"outcome": "failed", "reason": f"'{error.filename}': {error.strerror}", "log": []}
    except Exception as error:  # noqa: BLE001 - nobody sees a traceback here
        return {"outcome": "failed", "reason": f"{type(error).__name__}: {error}", "log": []}


def _activate(root: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    release, timeout_s = arguments["release"], arguments["timeout_s"]
    document = read_release(root, release)
    if document is None:
        raise RefusedError(f"release '{release}' is not in '{root}'")
    back_to = _last_good(root, release)
    service = AgentService(root, document["service"], document["name"])
    service.check_own()
    before = current_id(root)
    _tell(root, arguments["ticket"], step="switching")
    # Written first: who finds `current` switched can always tell where back is.
    write_durably(
        root / RELEASES / release / RELEASE_FILE, json.dumps({**document, "replaces": back_to}, indent=2) + "\n"
    )
    _stop_other_kind(root, before, document)
    point_current(root, release)
    _tell(root, arguments["ticket"], step="starting")
    reason = _start(service, document, timeout_s)
    if reason is None:
        write_durably(root / RELEASES / release / HEALTHY_FILE, "")
        _prune(root, keep=[release, *([back_to] if back_to else [])], wheels=arguments["wheels"])
        return {"outcome": "healthy", "replaces": back_to, "remark": service.warning()}
    log = service.log_tail(_LOG_LINES)
    _tell(root, arguments["ticket"], step="going back")
    if back_to is None:
        service.stop(forget=True)
        point_current(root, None)
        return {"outcome": "stopped", "reason": reason, "log": log}
    old = read_release(root, back_to)
    if (old["service"], old["name"]) != (document["service"], document["name"]):
        service.stop(forget=True)
    point_current(root, back_to)
    again = _start(AgentService(root, old["service"], old["name"]), old, timeout_s)
    return {"outcome": "rolled back", "reason": reason, "log": log, "back_to": back_to, "back_trouble": again}


def _last_good(root: Path, release: str) -> str | None:
    """Return the release to go back to: the current one, or, where that was never healthy, the one that it replaces."""
    candidate, passed = current_id(root), {release}
    while candidate is not None and (candidate == release or not is_healthy(root, candidate)):
        passed.add(candidate)
        before = (read_release(root, candidate) or {}).get("replaces")
        candidate = None if before in passed or read_release(root, before) is None else before
    return candidate


def _stop_other_kind(root: Path, before: str | None, document: dict[str, Any]) -> None:
    """Stop an agent that another kind of supervision runs, which would keep the port and the state."""
    old = read_release(root, before)
    if old is not None and (old["service"], old["name"]) != (document["service"], document["name"]):
        AgentService(root, old["service"], old["name"]).stop(forget=True)


def _start(service: AgentService, document: dict[str, Any], timeout_s: float) -> str | None:
    """Start what `current` names; return None as soon as it serves its bundle, or why it does not.

    What ran before has ended first, so that nothing else can answer in its place.
    """
    try:
        service.stop()
        if (reason := occupied(document)) is not None:
            return reason
        service.restart()
    except RefusedError as error:
        return str(error)
    except OSError as error:
        return f"'{error.filename}' cannot be started: {error.strerror}"
    deadline = time.monotonic() + timeout_s
    while True:
        deaths = service.deaths()
        if deaths is None or deaths >= _DEATHS:
            return "the service ends by itself"
        reason = trouble(document)
        if reason is None:
            return None
        if time.monotonic() > deadline:
            return f"not healthy within {timeout_s:g} s: {reason}"
        time.sleep(_LOOK_S)


def _prune(root: Path, *, keep: list[str], wheels: list[str] | None) -> None:
    """Remove releases, environments and wheels that nothing kept names, and copies that were given up."""
    for release in release_ids(root):
        if release not in keep:
            shutil.rmtree(root / RELEASES / release, ignore_errors=True)
    used = {(read_release(root, release) or {}).get("venv") for release in keep}
    for venv in (root / VENVS).glob("*"):
        if venv.name not in used:
            shutil.rmtree(venv, ignore_errors=True)
    shutil.rmtree(root / INCOMING, ignore_errors=True)
    if wheels is not None:
        for wheel in (root / WHEELS).glob("*"):
            if wheel.name not in wheels:
                with contextlib.suppress(OSError):  # the release serves, whatever is left lying
                    wheel.unlink()


def _tell(root: Path, ticket: str, **fields: Any) -> None:
    """Write down how far it is; without room for that, the work goes on."""
    try:
        write_durably(root / ACTIVATION_FILE, json.dumps({"ticket": ticket, **fields}) + "\n")
    except OSError:
        (root / ACTIVATION_FILE).unlink(missing_ok=True)
