"""A device that is played, message by message: it can claim anything, and sends again until it is answered."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as paho

from edgeexit.latency import BIN_COUNT
from edgeexit.signing import PrivateKey, public_key_text
from edgeexit.wire import (
    SCORE_BINS,
    Ack,
    Audit,
    AuditedSample,
    DeviceAddress,
    ExitCounters,
    Report,
    State,
    decode,
    down_topic,
    encode,
    up_topic,
)
from edgeexit.wire.audit_signing import sign_audit
from scripts.chaoslab.ledger import Entry, LedgerFile, message_entry
from scripts.chaoslab.waiting import GENEROUS_S, wait_until
from scripts.chaoslab.watcher import FLEET

_RESEND_S = 2.0
_CLASSES = 4


class PlayedDevice:
    """A client under the name of a device.

    Args:
        port: of the broker.
        name: name of the device.
        bundle: digest of the bundle that it claims to run.
        start: its start, 16 hex digits.
        exits: number of exits of its reports.
        ledger: file to which everything is written that it sends and that must be stored.
        key: signs its audits.

    """

    def __init__(
        self, port: int, name: str, *, bundle: str, start: str, exits: int, ledger: Path, key: PrivateKey | None = None
    ) -> None:
        self.name = name
        self.ledger = ledger
        self.refused: dict[int, str] = {}
        """Sequence -> reason of each refusal."""
        self._address = DeviceAddress(FLEET, "s0", name)
        self._fields: dict[str, Any] = {"start": start, "bundle": bundle, "cohort": "default", "revision": 0}
        self._exits = exits
        self._entries = LedgerFile(ledger)
        self._key = PrivateKey.generate() if key is None else key
        self._sequence = self._count = 0
        self.acknowledged: set[int] = set()
        """Sequences."""
        self._connected = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(down_topic(self._address, "ack"), qos=1)
        self._client.on_subscribe = lambda *_: self._connected.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(self._connected.is_set, GENEROUS_S)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def state(self, *, uptime_s: float) -> None:
        """Publish a live state."""
        state = State(
            online=True,
            uptime_s=uptime_s,
            accepted=0,
            policy="confidence",
            agent="0",
            key=public_key_text(self._key.public_key()),
            **self._fields,
        )
        self._client.publish(up_topic(self._address, "state"), encode(state), qos=1, retain=True)

    def report(self, *, uptime_s: float) -> Report:
        """Send a report that counts one more sample at each exit, until it is answered; return it."""
        self._sequence += 1
        self._count += 1
        exits = []
        for exit_index in range(self._exits):
            reached = self._count * (self._exits - exit_index)
            latency = (self._count, *(0,) * (BIN_COUNT - 1))
            scores = (reached, *(0,) * (SCORE_BINS - 1))
            exits.append(ExitCounters(reached=reached, exited=self._count, scores=scores, latency=latency))
        report = Report(sequence=self._sequence, uptime_s=uptime_s, exits=tuple(exits), **self._fields)
        self._send(report, encode(report), "report")
        return report

    def audit(self, samples: int, generator: np.random.Generator) -> Audit:
        """Send an audit with random readouts until it is answered; return it."""
        self._sequence += 1
        p = np.sort(generator.dirichlet(np.ones(_CLASSES), (samples, self._exits)))
        entropy = -(p * np.log(p)).sum(axis=2)
        readouts = np.stack([np.ones_like(entropy), p[:, :, -1], p[:, :, -2], entropy], axis=2).astype(np.float32)
        found = tuple(AuditedSample.from_readout(readout, exit_index=0) for readout in readouts)
        audit = Audit(sequence=self._sequence, samples=found, **self._fields)
        topic = up_topic(self._address, "audit")
        self._send(audit, sign_audit(encode(audit), topic=topic, key=self._key), "audit")
        return audit

    def send_raw(self, kind: Any, payloads: Sequence[bytes]) -> None:
        """Publish payloads that need no answer."""
        for payload in payloads:
            self._client.publish(up_topic(self._address, kind), payload, qos=1).wait_for_publish(GENEROUS_S)

    def _send(self, message: Report | Audit, payload: bytes, kind: Any) -> None:
        """Publish a message again and again until it is acknowledged or refused; a refused one leaves the ledger."""
        start = self._fields["start"]
        number = message.sequence

        def answered() -> bool:
            self._client.publish(up_topic(self._address, kind), payload, qos=1)
            wait_until(lambda: number in self.acknowledged or number in self.refused, _RESEND_S)
            return number in self.acknowledged or number in self.refused

        if not wait_until(answered, GENEROUS_S):
            raise TimeoutError(f"device '{self.name}': {kind} {number} is not answered")
        if number in self.acknowledged:
            self._entries.write(message_entry("adding", start, message))
            self._entries.write(Entry(kind="added"))

    def _on_message(self, _client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        ack = decode(bytes(message.payload), Ack)
        if ack.start == self._fields["start"]:
            self.acknowledged.update(ack.sequences)
            self.refused.update({refusal.sequence: refusal.reason for refusal in ack.refused})


def edited(message: msgspec.Struct, **changes: Any) -> bytes:
    """Return the JSON of a message with other values, which need not be valid."""
    return msgspec.json.encode({**msgspec.to_builtins(message), **changes})
