"""The options of a deployment."""

from pathlib import Path
from typing import Final, Literal

import msgspec

from edgeexit.deploy.facts import ServiceManager
from edgeexit.deploy.ssh import Address

FOLDER: Final = "~/edgeexit"
"""Default folder of a deployment on the device."""


class DeployOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to deploy, to which device, and how."""

    bundle: Path
    address: Address
    config: Path | None = None
    """`agent.toml`; default: the configuration of the device's current release."""
    target: str | None = None
    """Target that describes the device; default: the target that the bundle was compiled for."""
    folder: str = FOLDER
    """Folder of the deployment on the device."""
    wheel: Path | None = None
    """Wheel of edgeexit to install; default: a wheel of the edgeexit that runs this deployment."""
    wheelhouse: Path | None = None
    """Folder with all other wheels; default: the device downloads them from its package index."""
    lock: Path | None = None
    """Requirements for pip with hashes; default: the lock file that edgeexit ships, unless there is a wheelhouse."""
    allow_unhashed: bool = False
    """Without a wheelhouse and `lock`, install what the device's index offers."""
    service: Literal["auto"] | ServiceManager = "auto"
    """Service manager for the agent; `auto`: the preferred one of those that the device offers."""
    timeout_s: float | None = None
    """How long the agent may take to become healthy; default: the start timeout of the target's backend."""
    dry_run: bool = False
    """Check everything and write nothing on the device."""
    retry_delays_s: tuple[float, ...] | None = None
    """Delays before each new attempt after a lost connection; default: 1, 2, 5, 10 and 20 s."""
