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
"""If the device has not begun after this many polls, it never will, for example because it restarted."""
_PROGRESS_STEPS: Final[dict[ActivationStep, str]] = {"starting": "start", "rolling back": "rollback"}
_LOOK: Final = "see `edgeexit deploy status`"


def wait_for_earlier_step(device: Device, *, progress: Progress = NO_PROGRESS) -> None:
    """Wait until no step runs on the device any more; a step of a client that has died may still run."""
    reported = False
    while device.call(WATCH, WatchArguments(ticket=""))["working"]:
        if not reported:
            progress.message("the device is still working on an earlier deployment; waiting until it has ended")
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
    """Switch the device to a release that it has, and wait until the activation has ended.

    Args:
        device: the device.
        release: id of the release.
        timeout_s: how long the agent may take to get healthy; a rollback may take the same time again.
        wheels: file names of the wheels to keep on the device; None keeps all.
        progress: receives the steps and a warning about the service.

    Raises NotHealthyError if the release did not get healthy; the device has then rolled back or stopped the agent.

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
            raise DeployError(f"the device has lost the state of the activation, perhaps in a restart; {_LOOK}")
        step = activation["step"]
        if step != reported and step in _PROGRESS_STEPS:
            progress.step(_PROGRESS_STEPS[step])
            reported = step
        if activation["result"] is not None:
            break
        idle_polls = 0 if reply["working"] else idle_polls + 1
        if idle_polls > (_MAX_IDLE_POLLS if step == "waiting" else 0):
            raise DeployError(f"the device has stopped working on the activation; {_LOOK}")
        time.sleep(_POLL_S)
    result = activation["result"]
    if result["outcome"] == "healthy":
        if result["warning"] is not None:
            progress.warning(result["warning"])
        return result
    if result["outcome"] == "rolled back" and reported != "rolling back":  # it ended between two polls
        progress.step("rollback")
    raise NotHealthyError(_failure(release, result), result["log"])


def _failure(release: str, result: ActivationResult) -> str:
    text = f"release {release} did not get healthy: {result['reason']}"
    if result["outcome"] == "failed":
        return f"{text}; {_LOOK}"
    if result["outcome"] == "stopped":
        return f"{text}; there is no earlier release to roll back to, so the service is stopped"
    text = f"{text}; rolled back to {result['rolled_back_to']}"
    if result["rollback_error"] is None:
        return f"{text}, which serves again"
    return f"{text}, which is not healthy either: {result['rollback_error']}"
