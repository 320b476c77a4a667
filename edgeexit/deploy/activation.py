"""Switch a device to a release and follow the activation; the device itself rolls back if the release fails."""

import secrets
import time
from typing import Final

from edgeexit.deploy.device import Device
from edgeexit.deploy.remote.documents import ActivateArguments, ActivationResult, ActivationStep, WatchArguments
from edgeexit.deploy.result import NotHealthyError
from edgeexit.deploy.steps import ACTIVATE, WATCH
from edgeexit.errors import DeployError
from edgeexit.progress import NO_PROGRESS, Progress

_POLL_S: Final = 0.4
_MAX_IDLE_POLLS: Final = 25
"""If the activation has not started after this many polls, it never will, for example because the device restarted."""
_PROGRESS_STEPS: Final[dict[ActivationStep, str]] = {"starting": "start", "rolling back": "rollback"}
_SEE_STATUS: Final = "run `edgeexit deploy status` to see which release serves"


def wait_for_earlier_step(device: Device, *, progress: Progress = NO_PROGRESS) -> None:
    """Wait until no step runs on the device; the step of an earlier client runs on even if that client has died."""
    reported = False
    while device.call(WATCH, WatchArguments(ticket=""))["working"]:
        if not reported:
            progress.message("waiting until the device has finished a step of an earlier deployment")
            reported = True
        time.sleep(_POLL_S)


def activate(
    device: Device,
    release: str,
    *,
    timeout_s: float,
    wheels: list[str] | None = None,
    progress: Progress = NO_PROGRESS,
) -> ActivationResult:
    """Switch the device to an installed release, and wait until the activation has ended.

    Args:
        device: the device.
        release: id of the release.
        timeout_s: how long the agent may take to become healthy; a rollback may take the same time again.
        wheels: file names of the wheels to keep on the device; None keeps all.
        progress: receives the steps, and a warning if the agent ends when its user logs out.

    Raises NotHealthyError if the release did not become healthy; the device has then rolled back or stopped the agent.
    Raises DeployError if the device no longer works on the activation and has no result.

    """
    progress.step("switch")
    ticket = secrets.token_hex(8)
    device.call(ACTIVATE, ActivateArguments(ticket=ticket, release=release, timeout_s=timeout_s, wheels=wheels))
    reported: ActivationStep | None = None
    idle_polls = 0
    while True:
        reply = device.call(WATCH, WatchArguments(ticket=ticket))
        activation = reply["activation"]
        if activation is None:
            raise DeployError(
                f"the device has no state of the activation of release {release}; it may have restarted; {_SEE_STATUS}"
            )
        step = activation["step"]
        if step != reported and step in _PROGRESS_STEPS:
            progress.step(_PROGRESS_STEPS[step])
            reported = step
        if activation["result"] is not None:
            break
        idle_polls = 0 if reply["working"] else idle_polls + 1
        if idle_polls > (_MAX_IDLE_POLLS if step == "waiting" else 0):
            raise DeployError(
                f"the device no longer works on the activation of release {release} and has no result; {_SEE_STATUS}"
            )
        time.sleep(_POLL_S)
    result = activation["result"]
    if result["outcome"] == "healthy":
        if result["warning"] is not None:
            progress.warning(result["warning"])
        return result
    if result["outcome"] == "rolled back" and reported != "rolling back":  # the rollback ended between two polls
        progress.step("rollback")
    raise NotHealthyError(_failure(release, result), result["log"])


def _failure(release: str, result: ActivationResult) -> str:
    text = f"release {release} did not become healthy: {result['reason']}"
    if result["outcome"] == "failed":
        return f"{text}; {_SEE_STATUS}"
    if result["outcome"] == "stopped":
        return f"{text}; there is no earlier release to roll back to, so the service is stopped"
    text = f"{text}; rolled back to {result['rolled_back_to']}"
    if result["rollback_error"] is None:
        return f"{text}, which serves again"
    return f"{text}, which is not healthy either: {result['rollback_error']}"
