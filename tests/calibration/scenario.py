"""Test data for the calibrator: a bundle with a certified policy, messages of a device, clients and a mock broker."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from edgeexit_calibration.ingest.batch_store import BatchStore
from edgeexit_calibration.ingest.receipts import Stored
from edgeexit_calibration.ingest.report_head import ReportHead, count_reports, decode_head
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import Uplink
from sqlalchemy.orm import Session

from edgeexit.bundle import Bundle
from edgeexit.fitting import MaxRisk, ReadoutDataset, fit_thresholds
from edgeexit.latency import BIN_COUNT
from edgeexit.policies import PolicyDocument, simulate_exits
from edgeexit.policies.confidence import Confidence
from edgeexit.signing import PrivateKey
from edgeexit.wire import (
    SCORE_BINS,
    Ack,
    Audit,
    AuditedSample,
    DeviceAddress,
    ExitCounters,
    Refusal,
    Report,
    State,
    decode,
    down_topic,
    encode,
)
from edgeexit.wire.audit_signing import sign_audit
from tests.broker import RealBroker
from tests.bundles import make_bundle

FLEET, COHORT = "shop", "cameras"
START = "0" * 16
RISK, DELTA = 0.1, 0.1
EXITS = 3
DEVICE = DeviceAddress(FLEET, "s0", "camera-1")
IDENTITY = PrivateKey.generate()
"""The identity key of every device that does not name another one."""


def readouts_of(count: int, *, trust: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return readouts [count, 3, 4] of 4 classes; an early exit agrees with the final one with probability trust x p1.

    The other classes have (1 - p1) / 2 or p1, and equal parts of the rest.
    """
    rng = np.random.default_rng(seed)
    confidence = np.sort(1 - 0.7 * rng.random((count, EXITS)) ** 3, axis=1)
    final = rng.integers(0, 4, count)
    wrong = rng.random((count, EXITS)) > trust * confidence
    wrong[:, -1] = False
    readouts = np.zeros((count, EXITS, 4), np.float32)
    readouts[:, :, 0] = np.where(wrong, (final[:, None] + 1) % 4, final[:, None])
    readouts[:, :, 1] = confidence
    second = np.minimum(confidence, (1 - confidence) / 2)
    third = (1 - confidence - second) / 2
    probabilities = np.stack([confidence, second, third, third])
    readouts[:, :, 2] = second
    readouts[:, :, 3] = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=0)
    return readouts


def fitted_bundle(folder: Path) -> Bundle:
    """Create a bundle whose policy is certified for RISK on readouts with `trust` 1.

    A certificate may be wrong with probability DELTA. This one is correct: the true risk of its policy is 8.7 %.
    """
    bundle = make_bundle(folder, exits=EXITS)
    candidate = Confidence(temperatures=(1.0,) * EXITS, thresholds=(None,) * (EXITS - 1))
    dataset = ReadoutDataset(
        readouts=readouts_of(2000, seed=1), costs=bundle.manifest.macs, temperatures=candidate.temperatures
    )
    fit = fit_thresholds(candidate, dataset, MaxRisk(risk=RISK, delta=DELTA))
    assert any(threshold is not None for threshold in fit.policy.thresholds)
    bundle.write_policy(
        PolicyDocument(bundle=bundle.digest, revision=0, policy=fit.policy, certificate=fit.certificate)
    )
    return bundle


def audits_of(
    bundle: Bundle,
    count: int,
    *,
    policy: Confidence | None = None,
    trust: float = 1.0,
    revision: int = 1,
    first_sequence: int = 0,
    seed: int = 7,
    size: int = 100,
) -> list[Audit]:
    """Return the audit messages of `count` samples that a device with `policy` (default: the bundle's) sends."""
    readouts = readouts_of(count, trust=trust, seed=seed)
    exits = simulate_exits(policy or bundle.policy().policy, readouts)
    samples = [
        AuditedSample(
            exit=int(exit_index),
            top1=tuple(map(int, row[:, 0])),
            p1=tuple(map(float, row[:, 1])),
            p2=tuple(map(float, row[:, 2])),
            entropy=tuple(map(float, row[:, 3])),
        )
        for row, exit_index in zip(readouts, exits, strict=True)
    ]
    return [
        Audit(
            start=START,
            sequence=first_sequence + index,
            bundle=bundle.digest,
            cohort=COHORT,
            revision=revision,
            samples=tuple(samples[start : start + size]),
        )
        for index, start in enumerate(range(0, count, size))
    ]


def report_of(bundle_digest: str, *, sequence: int, counts=(5, 3, 2), revision: int = 1, start: str = START) -> Report:
    """Return a report whose samples took about 1 ms each."""
    histogram = [0] * BIN_COUNT
    exits = []
    for k, count in enumerate(counts):
        latency = histogram.copy()
        latency[13] = count
        scores = [0] * SCORE_BINS
        scores[-1] = sum(counts[k:])
        exits.append(ExitCounters(reached=sum(counts[k:]), exited=count, scores=tuple(scores), latency=tuple(latency)))
    return Report(
        start=start,
        sequence=sequence,
        bundle=bundle_digest,
        cohort=COHORT,
        revision=revision,
        uptime_s=1.0,
        exits=tuple(exits),
    )


def state_of(
    bundle_digest: str, *, revision: int = 1, online: bool = True, start: str = START, uptime_s: float = 1.0, **fields
) -> State:
    """Return the state message of a device."""
    return State(
        online=online,
        bundle=bundle_digest,
        cohort=COHORT,
        start=start,
        uptime_s=uptime_s,
        revision=revision,
        accepted=revision,
        policy="confidence",
        agent="0.1",
        **fields,
    )


def store_uplinks(
    session: Session, uplinks: Sequence[Uplink], *, now: datetime, rules: IngestRules | None = None
) -> Stored:
    """Store a batch, with nothing in memory from earlier ones."""
    return BatchStore(rules or IngestRules()).store(session, [with_counts(uplink) for uplink in uplinks], now=now)


def with_counts(uplink: Uplink) -> Uplink:
    """Return a message as it is stored: of a report the head, and its counters as an array."""
    message: Any = uplink.message
    if isinstance(message, Report):
        message = head_of(message)
    if not isinstance(message, ReportHead):
        return uplink
    return uplink._replace(message=message, counts=count_reports([message]).counts[0])


def head_of(report: Report) -> ReportHead:
    """Return a report as it is read: its counters are still JSON."""
    return decode_head(encode(report))


def payload_of(topic: str, message: object, *, key: PrivateKey = IDENTITY) -> bytes:
    """Return the payload that a device publishes on a topic; an audit is signed."""
    if isinstance(message, bytes):
        return message
    return sign_audit(encode(message), topic=topic, key=key) if isinstance(message, Audit) else encode(message)


def until(condition: Callable[[], bool], *, limit_s: float = 15.0) -> None:
    """Wait until a condition holds; fail after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


class RefusingBroker:
    """A mock broker with an ACL; while `refuses` is set, its PUBACK has the reason code 0x87, not authorised."""

    def __init__(self):
        self.refuses = True
        self.published = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as stream:
            while head := stream.read(1):
                length = shift = 0
                while (byte := stream.read(1)[0]) & 0x80:
                    length, shift = length | (byte & 0x7F) << shift, shift + 7
                packet = stream.read(length | byte << shift)
                kind = head[0] >> 4
                if kind == 1:
                    connection.sendall(bytes([0x20, 3, 0, 0, 0]))
                elif kind == 3:
                    self.published += 1
                    start = 2 + int.from_bytes(packet[:2], "big")
                    code = 0x87 if self.refuses else 0
                    connection.sendall(bytes([0x40, 3]) + packet[start : start + 2] + bytes([code]))

    def close(self):
        self._server.close()


class Client:
    """An MQTT client that publishes with QoS 1 and records the messages it receives."""

    def __init__(self, broker: RealBroker, *subscriptions: str) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = lambda _c, _u, message: self.messages.append(message)
        self._client.on_connect = lambda client, *_: [client.subscribe(topic, qos=1) for topic in subscriptions]
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        until(self._client.is_connected)

    def publish(self, topic: str, message: object, *, retain: bool = False) -> None:
        """Publish and wait for the broker's acknowledgement."""
        self.send(topic, message, retain=retain).wait_for_publish(5)

    def send(self, topic: str, message: object, *, qos: int = 1, retain: bool = False) -> paho.MQTTMessageInfo:
        """Publish without waiting; an audit is signed with IDENTITY."""
        return self._client.publish(topic, payload_of(topic, message), qos=qos, retain=retain)

    def of(self, topic: str) -> list[bytes]:
        return [message.payload for message in list(self.messages) if message.topic == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def acknowledged(client: Client, device: DeviceAddress = DEVICE) -> list[int]:
    """Return the sequence numbers of a device that the calibrator has acknowledged to this client."""
    return [n for payload in client.of(down_topic(device, "ack")) for n in decode(payload, Ack).sequences]


def refused(client: Client, device: DeviceAddress = DEVICE) -> list[Refusal]:
    """Return the refusals for a device."""
    return [refusal for payload in client.of(down_topic(device, "ack")) for refusal in decode(payload, Ack).refused]
