"""The step `activate`: switch to a release, wait until it is healthy, and roll back if it is not.

The work runs in a process that is detached from the connection, so that a lost connection never leaves the device
without an agent. The process writes its progress to `activation.json`, which the step `watch` reads.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from edgeexit.deploy.remote.documents import (
    ActivateArguments,
    ActivationDocument,
    ActivationOutcome,
    ActivationResult,
    ActivationStep,
    EmptyDocument,
    ReleaseDocument,
)
from edgeexit.deploy.remote.layout import (
    HEALTHY_FILE,
    INCOMING,
    RELEASES,
    VENVS,
    WHEELS,
    StepError,
    current_release_id,
    is_healthy,
    operation_lock,
    read_release,
    release_ids,
    set_current_release,
    write_durably,
    write_release,
)
from edgeexit.deploy.remote.service import AgentService, health_error, port_in_use_error

ACTIVATION_FILE = "activation.json"

_LOG_LINES = 12
_POLL_S = 0.3
_MAX_RESTARTS = 2
"""The release has failed when the service manager has restarted the agent this many times."""


def main(root: Path, arguments: ActivateArguments) -> EmptyDocument:
    """Start the activation in a child process and return."""
    _write_progress(root, arguments["ticket"], "waiting")
    if os.fork():
        return {}
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        with operation_lock(root):  # held until the result is written: a free lock without a result means a crash
            _write_progress(root, arguments["ticket"], "done", _run(root, arguments))
    except StepError as error:
        _write_progress(root, arguments["ticket"], "done", _result("failed", reason=str(error)))
    os._exit(0)


def rollback_release(root: Path, release: str) -> str | None:
    """Return the release to roll back to if `release` fails, or None.

    That is the current release, unless it is `release` itself or was never healthy. Then it is the first healthy
    release in the chain of `replaces` that starts there.
    """
    candidate, visited = current_release_id(root), {release}
    while candidate is not None and (candidate == release or not is_healthy(root, candidate)):
        visited.add(candidate)
        document = read_release(root, candidate)
        replaced = None if document is None else document["replaces"]
        candidate = None if replaced in visited or read_release(root, replaced) is None else replaced
    return candidate


def start_agent(service: AgentService, document: ReleaseDocument, timeout_s: float) -> str | None:
    """Start the agent of the current release, and wait until it is healthy. Return None, or why it is not healthy.

    The previous agent is stopped first, so that it cannot answer the health check in place of the new one.
    """
    try:
        service.stop()
        if (error := port_in_use_error(document)) is not None:
            return error
        service.restart()
    except StepError as step_error:
        return str(step_error)
    except OSError as os_error:
        return f"'{os_error.filename}' cannot be started: {os_error.strerror}"
    deadline = time.monotonic() + timeout_s
    while True:
        restarts = service.restart_count()
        if restarts is None or restarts >= _MAX_RESTARTS:
            return "the agent ended after its start"
        error = health_error(document)
        if error is None:
            return None
        if time.monotonic() > deadline:
            return f"not healthy within {timeout_s:g} s: {error}"
        time.sleep(_POLL_S)


def _run(root: Path, arguments: ActivateArguments) -> ActivationResult:
    try:
        return _activate(root, arguments)
    except StepError as error:
        return _result("failed", reason=str(error))
    except OSError as error:
        return _result("failed", reason=f"'{error.filename}': {error.strerror}")
    except Exception as error:  # noqa: BLE001 - the process has no output for a traceback
        return _result("failed", reason=f"{type(error).__name__}: {error}")


def _activate(root: Path, arguments: ActivateArguments) -> ActivationResult:
    release, ticket, timeout_s = arguments["release"], arguments["ticket"], arguments["timeout_s"]
    document = read_release(root, release)
    if document is None:
        raise StepError(f"release '{release}' is not in '{root}'")
    rollback_to = rollback_release(root, release)
    service = AgentService(root, document["service"], document["unit_name"])
    service.check_unit_owner()
    previous = read_release(root, current_release_id(root))
    _write_progress(root, ticket, "switching")
    # Written before the switch, so that the current release always has the id of the release to roll back to.
    write_release(root / RELEASES / release, {**document, "replaces": rollback_to})
    if previous is not None and not _same_service(previous, document):  # it still uses the port and the state
        AgentService(root, previous["service"], previous["unit_name"]).stop(disable=True)
    set_current_release(root, release)
    _write_progress(root, ticket, "starting")
    error = start_agent(service, document, timeout_s)
    if error is None:
        write_durably(root / RELEASES / release / HEALTHY_FILE, "")
        _prune(root, keep=[release, *([rollback_to] if rollback_to else [])], wheels=arguments["wheels"])
        return _result("healthy", replaces=rollback_to, warning=service.warning())
    log = service.log_tail(_LOG_LINES)
    _write_progress(root, ticket, "rolling back")
    earlier = read_release(root, rollback_to)
    if rollback_to is None or earlier is None:
        service.stop(disable=True)
        set_current_release(root, None)
        return _result("stopped", reason=error, log=log)
    if not _same_service(earlier, document):
        service.stop(disable=True)
    set_current_release(root, rollback_to)
    earlier_service = AgentService(root, earlier["service"], earlier["unit_name"])
    rollback_error = start_agent(earlier_service, earlier, max(timeout_s, earlier["start_timeout_s"]))
    return _result("rolled back", reason=error, log=log, rolled_back_to=rollback_to, rollback_error=rollback_error)


def _same_service(one: ReleaseDocument, other: ReleaseDocument) -> bool:
    return (one["service"], one["unit_name"]) == (other["service"], other["unit_name"])


def _prune(root: Path, *, keep: list[str], wheels: list[str] | None) -> None:
    """Remove incomplete copies, the releases not in `keep`, environments that no release uses, and other wheels.

    If `wheels` is None, no wheel is removed.
    """
    for release in release_ids(root):
        if release not in keep:
            shutil.rmtree(root / RELEASES / release, ignore_errors=True)
    documents = [read_release(root, release) for release in keep]
    used = {document["environment"] for document in documents if document is not None}
    for venv in (root / VENVS).glob("*"):
        if venv.name not in used:
            shutil.rmtree(venv, ignore_errors=True)
    shutil.rmtree(root / INCOMING, ignore_errors=True)
    if wheels is not None:
        for wheel in (root / WHEELS).glob("*"):
            if wheel.name not in wheels:
                with contextlib.suppress(OSError):  # an old file that remains is not a failure of the healthy release
                    wheel.unlink()


def _result(
    outcome: ActivationOutcome,
    *,
    reason: str | None = None,
    replaces: str | None = None,
    warning: str | None = None,
    rolled_back_to: str | None = None,
    rollback_error: str | None = None,
    log: list[str] | None = None,
) -> ActivationResult:
    return {
        "outcome": outcome,
        "reason": reason,
        "replaces": replaces,
        "warning": warning,
        "rolled_back_to": rolled_back_to,
        "rollback_error": rollback_error,
        "log": log or [],
    }


def _write_progress(root: Path, ticket: str, step: ActivationStep, result: ActivationResult | None = None) -> None:
    """Write `activation.json`; if the disk is full, the activation continues without it."""
    document: ActivationDocument = {"ticket": ticket, "step": step, "result": result}
    try:
        write_durably(root / ACTIVATION_FILE, json.dumps(document) + "\n")
    except OSError:
        (root / ACTIVATION_FILE).unlink(missing_ok=True)
