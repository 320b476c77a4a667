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
_MAX_STEP_S: Final = 1900.0
"""Maximum time of an earlier step on the device, which the device itself limits to half an hour."""
_MAX_STOP_S: Final = 300.0
"""Maximum time in which the device stops agents, and starts and stops services, during one activation."""
_MAX_START_S: Final = 900.0
"""Maximum start timeout of the release that the device may roll back to."""
_SEE_STATUS: Final = "run `edgeexit deploy status` to see which release serves"


def wait_for_earlier_step(device: Device, *, progress: Progress = NO_PROGRESS) -> None:
    """Wait until no step runs on the device; the step of an earlier client runs on even if that client has died."""
    reported = False
    deadline = time.monotonic() + _MAX_STEP_S
    while device.call(WATCH, WatchArguments(ticket=""))["working"]:
        if not reported:
            progress.message("waiting until the device has finished a step of an earlier deployment")
            reported = True
        if time.monotonic() > deadline:
            raise DeployError(
                f"a step of an earlier deployment has been running on the device for {_MAX_STEP_S / 60:.0f} minutes; "
                "check the device, then run the same command again"
            )
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
        timeout_s: how long the agent may take to become healthy. After a rollback, the earlier release has the larger
            of this time and its own start timeout.
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
    deadline = time.monotonic() + _MAX_STEP_S + 2 * (max(timeout_s, _MAX_START_S) + _MAX_STOP_S)
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
        if time.monotonic() > deadline:
            raise DeployError(f"the device does not finish the activation of release {release}; {_SEE_STATUS}")
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
