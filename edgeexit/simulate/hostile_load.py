"""Sends what malicious devices send on a connection of its own, and counts the answers apart from those of others."""

import random
from collections import Counter

import msgspec

from edgeexit.simulate.gateway import BrokerAccess, Gateway
from edgeexit.simulate.hostile import HOSTILE_KINDS, HostileDevice
from edgeexit.simulate.member import new_start
from edgeexit.simulate.model import SimulatedModel
from edgeexit.simulate.options import SimulationOptions
from edgeexit.wire import Ack, DeviceAddress, down_topic

_EVERY_S = 1.0
"""Time between two turns of a malicious device."""


class HostileLoad:
    """The malicious devices of a run.

    Args:
        options: how many, and their fleet.
        model: the bundle that they misuse.
        access: the broker.
        source: random numbers.

    Attributes:
        sent: kind -> messages.
        acknowledged: number of them that the calibrator acknowledged.
        refused: number of refusals.

    """

    def __init__(
        self, options: SimulationOptions, model: SimulatedModel, access: BrokerAccess, source: random.Random
    ) -> None:
        self.sent: Counter[str] = Counter()
        self.acknowledged = 0
        self.refused = 0
        self._due = 0.0
        self._decoder = msgspec.json.Decoder(Ack)
        self._devices = [
            HostileDevice(
                DeviceAddress(options.fleet, f"s{number % options.shards}", f"{options.prefix}-hostile-{number:05d}"),
                HOSTILE_KINDS[number % len(HOSTILE_KINDS)],
                bundle=model.bundle,
                exits=model.dataset.exits,
                source=source,
            )
            for number in range(options.events.malicious)
        ]
        self.gateways: list[Gateway] = []
        if self._devices:
            gateway = Gateway(
                access,
                f"edgeexit-simulate-{options.prefix}-hostile-{new_start()[:8]}",
                filters=[down_topic(device.address, "ack") for device in self._devices],
                will=lambda: None,
                on_open=lambda: None,
                on_ready=lambda: None,
                on_message=self._receive,
            )
            self.gateways.append(gateway)

    def step(self, now: float) -> None:
        """Send what is due."""
        if now < self._due or not all(gateway.is_ready for gateway in self.gateways):
            return
        self._due = now + _EVERY_S
        for device in self._devices:
            for message in device.messages():
                self.sent[message.kind] += 1
                self.gateways[0].publish(message.topic, message.payload)

    def _receive(self, _topic: str, payload: bytes) -> None:
        try:
            ack = self._decoder.decode(payload)
        except msgspec.DecodeError:
            return
        self.acknowledged += len(ack.sequences)
        self.refused += len(ack.refused)
