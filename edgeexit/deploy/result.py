"""The result of a deployment, and the error for a release that does not become healthy."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from edgeexit.deploy.facts import ServiceManager
from edgeexit.errors import DeployError


class DeploymentResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment did or, as a dry run, would do."""

    outcome: Literal["healthy", "unchanged", "planned"]
    """`unchanged`: the device already serves the same release. `planned`: a dry run."""
    release: str | None
    """Id on the device; null for a dry run."""
    replaces: str | None
    """The release that a rollback returns to, or that a dry run would replace; null if there is none."""
    bundle: str
    """Digest of the bundle."""
    folder: str
    """Absolute path of the deployment on the device."""
    service: ServiceManager
    user: str
    """The user that the agent runs as."""
    python: str
    """Path of the device's Python."""
    sent_bytes: int
    """Bytes that were sent or, in a dry run, would be sent."""
    needed_bytes: int
    """Estimate of the free space that the deployment needs, on the file system of the device that it fills most."""
    free_bytes: int
    """Free space on that file system."""
    environment: Literal["created", "reused"]
    endpoint: str
    """URL of the agent's endpoint on the device itself."""


class NotHealthyError(DeployError):
    """A release did not become healthy.

    Attributes:
        log: the last lines of its agent's log.

    """

    def __init__(self, text: str, log: Sequence[str]) -> None:
        super().__init__(text)
        self.log = tuple(log)
