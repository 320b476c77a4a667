"""What a deployment did, and how one that failed tells it."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from edgeexit.deploy.facts import Supervisor
from edgeexit.errors import DeployError

Step = Literal["preflight", "copy", "environment", "plans", "switch", "start", "healthy", "rollback"]


class DeploymentOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment, or with --dry-run what it would do."""

    outcome: Literal["healthy", "unchanged", "planned"]
    """`unchanged`: the device serves just this already, and nothing was done."""
    release: str | None
    """Id on the device; null where there is none yet."""
    replaces: str | None
    """The release that is kept to go back to."""
    bundle: str
    """Digest."""
    folder: str
    service: Supervisor
    user: str
    python: str
    send_bytes: int
    """Bytes that were sent, or would be."""
    needed_bytes: int
    """Estimate of the room that was needed on the device."""
    free_bytes: int
    environment: Literal["made", "kept"]
    endpoint: str
    """Where the agent is asked, on the device itself."""


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told how far a deployment is."""

    on_step: Callable[[Step], None] = lambda _: None
    on_bytes: Callable[[int, int], None] = lambda _sent, _total: None
    say: Callable[[str], None] = lambda _: None
    """Told what a person should know, in one line."""


class NotHealthyError(DeployError):
    """A release did not serve as it should.

    Attributes:
        log: the last lines that its agent said.

    """

    def __init__(self, text: str, log: Sequence[str]) -> None:
        super().__init__(text)
        self.log = tuple(log)
