"""Switches a device to a release and follows what it makes of that; the device itself goes back where need be."""

import secrets
import time
from typing import Any, Final

from edgeexit.deploy.device import Device
from edgeexit.deploy.outcome import Listener, NotHealthyError, Step
from edgeexit.errors import DeployError

_LOOK_S: Final = 0.4
_IDLE_LOOKS: Final = 25
"""After so many, a device that has not begun never will, as after a restart."""
_STEPS: Final[dict[str, Step]] = {
    "starting": "start",
    "going back": "rollback",
}


def settle(device: Device, listener: Listener) -> None:
    """Wait for the end of what a client that has gone has left at work on the device."""
    told = False
    while device.call("watch", ticket="")["working"]:
        if not told:
            listener.say("the device still works on an earlier deployment; waiting until it has ended")
            told = True
        time.sleep(_LOOK_S)


def activate(
    device: Device, release: str, *, timeout_s: float, listener: Listener, wheels: list[str] | None = None
) -> dict[str, Any]:
    """Let the device switch to a release that it has, and wait for the end of that.

    Args:
        device: where.
        release: its id.
        timeout_s: how long the agent may take to serve; where the device goes back, the old one may take as long.
        listener: told the steps.
        wheels: names of the wheels to keep; None keeps all.

    Raises NotHealthyError where the release did not serve, when the device has gone back or stopped.

    """
    listener.on_step("switch")
    ticket = secrets.token_hex(8)
    device.call("activate", ticket=ticket, release=release, timeout_s=timeout_s, wheels=wheels)
    told, idle = "", 0
    while True:
        seen = device.call("watch", ticket=ticket)
        activation = seen["activation"]
        if activation is None:
            raise DeployError("the device has lost the activation, as after a restart; see `edgeexit deploy status`")
        step = activation["step"]
        if step != told and step in _STEPS:
            listener.on_step(_STEPS[step])
            told = step
        if step == "done":
            break
        idle = 0 if seen["working"] else idle + 1
        if idle > (_IDLE_LOOKS if step == "waiting" else 0):
            raise DeployError("the device stopped working on the activation; see `edgeexit deploy status`")
        time.sleep(_LOOK_S)
    if activation["outcome"] == "healthy":
        if activation["remark"] is not None:
            listener.say(activation["remark"])
        return dict(activation)
    if activation["outcome"] == "rolled back" and told != "going back":  # it was over before it was looked for
        listener.on_step("rollback")
    raise NotHealthyError(_failure(release, activation), activation["log"])


def _failure(release: str, activation: dict[str, Any]) -> str:
    reason = f"release {release} did not get healthy: {activation['reason']}"
    if activation["outcome"] == "failed":
        return f"{reason}; see `edgeexit deploy status`"
    if activation["outcome"] == "stopped":
        return f"{reason}; there is no earlier release to go back to, so the service is stopped"
    back = f"{reason}; rolled back to {activation['back_to']}"
    if activation["back_trouble"] is None:
        return f"{back}, which serves again"
    return f"{back}, which does not serve either: {activation['back_trouble']}"
