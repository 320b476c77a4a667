"""Distributes devices over connections, and gives each of them the acknowledgements and policies that arrive."""

import time
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from edgeexit.key_set import TrustedKeys
from edgeexit.simulate.gateway import BrokerAccess, Gateway
from edgeexit.simulate.ledger import Ledger
from edgeexit.simulate.member import FleetMember, new_start
from edgeexit.simulate.model import SimulatedModel
from edgeexit.simulate.options import SimulationOptions
from edgeexit.simulate.policy_intake import PolicyIntake
from edgeexit.simulate.sample_book import SampleBook
from edgeexit.wire import Ack, down_topic, policy_topic

_ACK: Final = "/down/ack"


class DeviceConnections:
    """Connects devices.

    Args:
        options: the fleet, and how many connections it has.
        model: the bundle.
        access: the broker.
        ledger: receives acknowledgements.
        book: the samples under each policy.
        keys: the keys that may sign policies; None: no policies are received.

    """

    def __init__(
        self,
        options: SimulationOptions,
        model: SimulatedModel,
        access: BrokerAccess,
        *,
        ledger: Ledger,
        book: SampleBook,
        keys: TrustedKeys | None,
    ) -> None:
        self._options = options
        self._access = access
        self._ledger = ledger
        self._book = book
        self._decoder = msgspec.json.Decoder(Ack)
        self._cohort_topic = policy_topic(options.fleet, model.bundle, options.cohort)
        self._intake = None
        if keys is not None:
            self._intake = PolicyIntake(
                keys,
                fleet=options.fleet,
                cohort=options.cohort,
                bundle=model.bundle,
                exits=model.dataset.exits,
                classes=model.classes,
            )

    def connect_all(self, members: Sequence[FleetMember]) -> list[Gateway]:
        """Return the connections of devices, each with consecutive ones."""
        count = min(self._options.connections, len(members))
        parts = np.array_split(np.arange(len(members)), count)
        return [self.connect(index, [members[row] for row in part]) for index, part in enumerate(parts)]

    def connect(self, index: int, members: Sequence[FleetMember]) -> Gateway:
        """Return one connection of some devices; the will is that of the first one."""
        first = members[0]
        by_topic: dict[str, list[FleetMember]] = {}
        for member in members:
            by_topic.setdefault(down_topic(member.agent.sent.address, "policy"), []).append(member)
        first.carries_will = True
        gateway = Gateway(
            self._access,
            self._client_id(index, members),
            filters=self._filters(members),
            will=lambda: (first.agent.state_topic, first.agent.state(time.monotonic(), online=False)),
            on_open=lambda: _publish_states(members),
            on_ready=lambda: _transmit_pending(members),
            on_message=lambda topic, payload: self._receive(topic, payload, members, by_topic),
            is_private=len(members) == 1,
        )
        for member in members:
            member.gateway = gateway
        return gateway

    def _client_id(self, index: int, members: Sequence[FleetMember]) -> str:
        address = members[0].agent.sent.address
        if len(members) == 1 and members[0].agent.sent.role == "device":
            return f"edgeexit.{address.fleet}.{address.shard}.{address.device}"
        return f"edgeexit-simulate-{self._options.prefix}-{index}-{new_start()[:8]}"

    def _filters(self, members: Sequence[FleetMember]) -> list[str]:
        filters = [down_topic(member.agent.sent.address, "ack") for member in members]
        if self._intake is not None:
            filters += [down_topic(member.agent.sent.address, "policy") for member in members]
            filters.append(self._cohort_topic)
        return list(dict.fromkeys(filters))

    def _receive(
        self, topic: str, payload: bytes, members: Sequence[FleetMember], by_topic: dict[str, list[FleetMember]]
    ) -> None:
        if topic.endswith(_ACK):
            try:
                ack = self._decoder.decode(payload)
            except msgspec.DecodeError:
                return
            self._ledger.acknowledge(ack)
        elif topic == self._cohort_topic:
            self._apply_policy(members, payload, for_device=False)
        elif topic in by_topic:
            self._apply_policy(by_topic[topic], payload, for_device=True)

    def _apply_policy(self, members: Sequence[FleetMember], envelope: bytes, *, for_device: bool) -> None:
        if self._intake is None or not envelope:
            return
        now = time.monotonic()
        for member in members:
            agent, rejected = member.agent, member.agent.rejected
            document = self._intake.verify(agent.sent.address.device, envelope, for_device=for_device)
            is_new, active = agent.receive(document), agent.active_document
            if is_new and active is not None:
                agent.apply(active.revision, self._book.under(active.policy))
            if member.is_active and (is_new or agent.rejected != rejected):
                member.publish_state(now)


def _publish_states(members: Sequence[FleetMember]) -> None:
    now = time.monotonic()
    for member in members:
        if member.is_active:
            member.publish_state(now)


def _transmit_pending(members: Sequence[FleetMember]) -> None:
    now = time.monotonic()
    for member in members:
        member.transmit_pending(now)
