"""Goes back to a release that a device has kept, and tells what a device has and runs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec

from edgeexit.deploy.activation import activate, settle
from edgeexit.deploy.deployment import FOLDER
from edgeexit.deploy.device import Device, run_shell
from edgeexit.deploy.facts import parse_facts
from edgeexit.deploy.outcome import Listener
from edgeexit.deploy.ssh import Address, Connection
from edgeexit.errors import DeployError

_LOG_LINES = 10


class ReleaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A release that a device has."""

    id: str
    bundle: str
    model: str
    edgeexit: str
    deployed_at: str
    deployed_by: str
    healthy: bool
    """Whether it has ever served as it should."""
    has_policy: bool
    """Whether its bundle came with one; the calibrator may have sent another since."""
    replaces: str | None
    """What it took the place of, and a rollback goes back to."""
    current: bool


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a device has and runs."""

    folder: str
    current: str | None
    serving: bool
    trouble: str | None
    """Why it does not serve."""
    service: str | None
    pid: int | None
    releases: tuple[ReleaseView, ...]
    log: tuple[str, ...]
    """The last lines that the agent said."""


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """A device that went back."""

    release: str
    replaces: str | None


def roll_back(
    address: Address,
    *,
    to: str | None = None,
    folder: str = FOLDER,
    timeout_s: float = 60.0,
    listener: Listener | None = None,
) -> RolledBack:
    """Switch a device to the release that its current one replaced, or to `to`; it has to get healthy.

    Going back once more is going forward again. Raises DeployError where there is nothing to go back to, and
    NotHealthyError where the release does not serve; the device has then stayed with what it had.
    """
    listener = listener or Listener()
    with _device(address, folder, listener) as device, device.locked():
        settle(device, listener)
        view = view_of(device)
        release = to or _previous(device, view)
        if release not in {one.id for one in view.releases}:
            known = ", ".join(one.id for one in view.releases) or "none"
            raise DeployError(f"release '{release}' is not on the device; there are: {known}")
        if release == view.current and view.serving:
            raise DeployError(f"release '{release}' is what the device runs")
        activation = activate(device, release, timeout_s=timeout_s, listener=listener)
        return RolledBack(release=release, replaces=activation["replaces"])


def device_status(address: Address, *, folder: str = FOLDER) -> DeviceStatus:
    """Return what a device has and runs; changes nothing there."""
    with _device(address, folder, Listener()) as device:
        return view_of(device)


def view_of(device: Device) -> DeviceStatus:
    """Return what a connected device has and runs."""
    seen = device.call("watch", log_lines=_LOG_LINES)
    releases = [entry for entry in seen["releases"] if entry["release"] is not None]
    current: dict[str, Any] = next((e["release"] for e in releases if e["release"]["id"] == seen["current"]), {})
    serving = seen["pid"] is not None and seen["trouble"] is None
    return DeviceStatus(
        folder=device.root,
        current=seen["current"],
        serving=serving,
        trouble=None if serving else seen["trouble"] or "no agent of this deployment runs",
        service=current.get("service"),
        pid=seen["pid"],
        releases=tuple(
            msgspec.convert(
                {**entry["release"], **entry, "current": entry["release"]["id"] == seen["current"]},
                ReleaseView,
            )
            for entry in releases
        ),
        log=tuple(seen["log"]),
    )


def _previous(device: Device, view: DeviceStatus) -> str:
    if view.current is None:
        raise DeployError(f"nothing is deployed in '{view.folder}' on the device")
    previous = (device.call("inventory")["current"] or {}).get("replaces")
    if previous is None:
        raise DeployError(f"release '{view.current}' is the first on this device; there is nothing to go back to")
    return str(previous)


@contextlib.contextmanager
def _device(address: Address, folder: str, listener: Listener) -> Iterator[Device]:
    with Connection(address) as connection:
        facts = parse_facts(run_shell(connection, "facts.sh", folder, ""))
        python = next((python for python in facts.pythons if python.version >= (3, 10)), None)
        if python is None:
            raise DeployError("the device has no Python 3.10 or newer, so nothing is deployed there")
        yield Device(connection, python=python.program, root=facts.folder, say=listener.say)
