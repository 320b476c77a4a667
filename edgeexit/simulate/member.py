"""A simulated device in its fleet: the agent that runs on it now, its connection, and what it holds back."""

import hashlib
import random

from edgeexit.signing import PrivateKey
from edgeexit.simulate.gateway import Gateway  # noqa: TC001 - the annotation of an attribute
from edgeexit.simulate.ledger import Ledger, SentMessage, SentStart
from edgeexit.simulate.virtual_agent import VirtualAgent

_WINDOW = 32
"""Messages of an agent that are not acknowledged; it sends no others before."""


class FleetMember:
    """A device.

    Attributes:
        agent: the agent that runs on it.
        gateway: its connection.
        is_active: False before it joins and after it leaves.
        is_draining: True while it sends nothing new, because it restarts when everything is acknowledged.
        offline_until: monotonic seconds; until then it sends nothing; 0: it is not offline.
        carries_will: True if the will of the connection is its state.
        has_state: True after it has published a state.

    """

    __slots__ = ("_backlog", "_earlier", "_ledger", "agent", "carries_will", "gateway", "has_state", "is_active",
                 "is_draining", "offline_until")  # fmt: skip

    def __init__(self, agent: VirtualAgent, ledger: Ledger, *, is_active: bool = True) -> None:
        self.agent = agent
        self.gateway: Gateway
        self.is_active = is_active
        self.is_draining = False
        self.offline_until = 0.0
        self.carries_will = False
        self.has_state = False
        self._ledger = ledger
        self._backlog: list[SentMessage] = []
        self._earlier: list[SentStart] = []

    @property
    def may_report(self) -> bool:
        """True if it runs, is connected, and its window has room."""
        return (
            self.is_active and not self.is_draining and self.gateway.is_ready and len(self.agent.sent.pending) < _WINDOW
        )

    @property
    def may_restart(self) -> bool:
        """True if its will allows a new start: it carries none, or has the connection for itself."""
        return not self.carries_will or self.gateway.is_private

    def send(self, message: SentMessage, now: float) -> None:
        """Send a new message, or hold it back while the device is offline."""
        self._ledger.add(message)
        if self.offline_until:
            self._backlog.append(message)
        else:
            self.transmit(message, now)

    def transmit(self, message: SentMessage, now: float) -> None:
        """Give a copy of a message to the connection, if there is one."""
        if self.gateway.is_ready:
            self._ledger.sent(message, now)
            self.gateway.publish(message.topic, message.payload, done=message.answered)

    def end_offline(self, now: float) -> None:
        """Come back, and send the backlog."""
        self.offline_until = 0.0
        backlog, self._backlog = self._backlog, []
        for message in backlog:
            self.transmit(message, now)

    def transmit_pending(self, now: float) -> None:
        """Send everything again that is not acknowledged: the connection is new."""
        for sent in (*self._earlier, self.agent.sent):
            for message in list(sent.pending.values()):
                if not message.held and not self.offline_until:
                    self.transmit(message, now)

    def publish_state(self, now: float, *, online: bool = True) -> None:
        """Publish the state."""
        self._ledger.states += 1
        self.has_state = True
        self.gateway.publish(self.agent.state_topic, self.agent.state(now, online=online), retain=True)

    def restart(self, start: str, now: float) -> None:
        """Start the agent again; what is not acknowledged stays in its outbox."""
        old = self.agent.sent
        self._earlier = [sent for sent in (*self._earlier, old) if sent.pending]
        self.agent.restart(self._ledger.open_start(old.address, start, old.role), now)
        if self.carries_will:
            self.gateway.abort()  # the next connection has the new will
            self.has_state = True
        else:
            self.publish_state(now)


def identity_of(seed: int, device: str) -> PrivateKey:
    """Return the identity key of a device: the same in every run with this seed."""
    return PrivateKey.from_private_bytes(hashlib.sha256(f"edgeexit simulate {seed} {device}".encode()).digest())


def new_start() -> str:
    """Return the random name of a start."""
    return f"{random.SystemRandom().getrandbits(64):016x}"
