"""Report the releases of a device and whether its agent serves."""

from typing import Final

import msgspec

from edgeexit.deploy.device import Device, open_device
from edgeexit.deploy.facts import ServiceManager
from edgeexit.deploy.options import FOLDER
from edgeexit.deploy.remote.documents import InstalledRelease, StatusArguments
from edgeexit.deploy.ssh import Address
from edgeexit.deploy.steps import STATUS

_LOG_LINES: Final = 10


class ReleaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is installed on a device."""

    id: str
    bundle: str
    """Digest of the bundle."""
    model: str
    edgeexit_version: str
    deployed_at: str
    """UTC time, ISO 8601."""
    deployed_by: str
    """`user@host` of the build machine."""
    healthy: bool
    """The release has been healthy at least once on this device."""
    has_policy: bool
    """Its bundle contains a policy; the agent may have received a newer one."""
    start_timeout_s: float
    """How long its agent may take to become healthy by default."""
    replaces: str | None
    """The release that it replaced, to which a rollback returns."""
    current: bool


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The releases of a device and the state of its agent."""

    folder: str
    current: str | None
    """Id of the current release; null if nothing is deployed."""
    serving: bool
    health_error: str | None
    """Why the agent does not serve; null if it serves."""
    service: ServiceManager | None
    """Null if nothing is deployed."""
    pid: int | None
    """Null if the agent does not run."""
    releases: tuple[ReleaseStatus, ...]
    log: tuple[str, ...]
    """The last lines of the agent's log."""


def device_status(address: Address, *, folder: str = FOLDER) -> DeviceStatus:
    """Return the status of a device without changing anything on it.

    Raises DeployError if the device cannot be reached or has no Python 3.10 or newer.
    """
    with open_device(address, folder) as device:
        return read_status(device)


def read_status(device: Device) -> DeviceStatus:
    """Return the status of a connected device."""
    reply = device.call(STATUS, StatusArguments(log_lines=_LOG_LINES))
    current = next((one["release"] for one in reply["releases"] if one["release"]["id"] == reply["current"]), None)
    serving = reply["pid"] is not None and reply["health_error"] is None
    return DeviceStatus(
        folder=device.root,
        current=reply["current"],
        serving=serving,
        health_error=None if serving else reply["health_error"] or "the agent of this deployment is not running",
        service=None if current is None else current["service"],
        pid=reply["pid"],
        releases=tuple(_release_status(one, reply["current"]) for one in reply["releases"]),
        log=tuple(reply["log"]),
    )


def _release_status(installed: InstalledRelease, current: str | None) -> ReleaseStatus:
    release = installed["release"]
    return ReleaseStatus(
        id=release["id"],
        bundle=release["bundle"],
        model=release["model"],
        edgeexit_version=release["edgeexit_version"],
        deployed_at=release["deployed_at"],
        deployed_by=release["deployed_by"],
        healthy=installed["healthy"],
        has_policy=installed["has_policy"],
        start_timeout_s=release["start_timeout_s"],
        replaces=release["replaces"],
        current=release["id"] == current,
    )
