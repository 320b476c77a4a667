"""Switch a device back to an earlier release that is still installed on it."""

import msgspec

from edgeexit.deploy.activation import activate, wait_for_earlier_step
from edgeexit.deploy.device import open_device
from edgeexit.deploy.options import FOLDER
from edgeexit.deploy.ssh import Address
from edgeexit.deploy.status import DeviceStatus, read_status
from edgeexit.errors import DeployError
from edgeexit.progress import NO_PROGRESS, Progress


class RollbackResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a rollback."""

    release: str
    """The release that is current now."""
    replaces: str | None
    """The release that it replaced; the next rollback returns to it."""


def roll_back(
    address: Address,
    *,
    to: str | None = None,
    folder: str = FOLDER,
    timeout_s: float | None = None,
    progress: Progress = NO_PROGRESS,
) -> RollbackResult:
    """Switch a device to the release that its current one replaced, or to the release `to`.

    A second rollback undoes the first one. `timeout_s` is how long the agent may take to become healthy; default: the
    start timeout that the release was deployed with.

    Raises DeployError if there is no release to roll back to, and NotHealthyError if the release does not become
    healthy; the device then returns to the release that was current before, or stops the agent if no healthy one is
    left.
    """
    with open_device(address, folder, progress=progress) as device, device.locked():
        wait_for_earlier_step(device, progress=progress)
        status = read_status(device)
        release = to or _replaced_release(status)
        start_timeout_s = {existing.id: existing.start_timeout_s for existing in status.releases}
        if release not in start_timeout_s:
            existing_ids = ", ".join(existing.id for existing in status.releases) or "none"
            raise DeployError(f"release '{release}' is not on the device; it has: {existing_ids}")
        if release == status.current and status.serving:
            raise DeployError(f"release '{release}' is already the current release of the device")
        result = activate(device, release, timeout_s=timeout_s or start_timeout_s[release], progress=progress)
        return RollbackResult(release=release, replaces=result["replaces"])


def _replaced_release(status: DeviceStatus) -> str:
    if status.current is None:
        raise DeployError(f"nothing is deployed in '{status.folder}' on the device")
    replaced = next((release.replaces for release in status.releases if release.current), None)
    if replaced is None:
        raise DeployError(f"release '{status.current}' is the first on this device; there is nothing to roll back to")
    return replaced
