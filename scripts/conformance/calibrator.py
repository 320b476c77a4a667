"""Plays the calibrator: receives what the client under test publishes, and sends acks, policies and commands."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import paho.mqtt.client as paho
from broker_client import MQTT_5, MQTT_311, Broker, speaks, subscribe

from edgeexit.errors import MessageError
from edgeexit.latency import LatencyProfile
from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import (
    COMMAND_TYPE,
    HEARTBEAT_TYPE,
    Ack,
    Audit,
    Command,
    DeviceAddress,
    Heartbeat,
    Refusal,
    Report,
    State,
    decode,
    down_topic,
    encode,
    heartbeat_topic,
    parse_up_topic,
    policy_topic,
    uplink_filter,
)
from edgeexit.wire.audit_signing import verify_audit

T = TypeVar("T")
Uplink = State | Report | Audit | LatencyProfile


class Seen(NamedTuple):
    """A message that the client under test published."""

    kind: str
    """Last level of the topic."""
    payload: bytes
    message: Uplink | None
    """None if the payload is invalid."""
    error: str | None
    key: str | None
    """Key that signed an audit."""
    qos: int
    retained: bool
    """True: the broker had stored it before the test subscribed."""
    at: float
    """Monotonic seconds."""


class Calibrator:
    """The calibrator's connection to the broker.

    Args:
        broker: host and port.
        address: the client under test.
        key: signs policies, heartbeats and commands.

    """

    def __init__(self, broker: Broker, address: DeviceAddress, key: PrivateKey) -> None:
        self.address: Final = address
        self.key = key
        self.seen: Final[list[Seen]] = []
        self.acknowledging = True
        """True: every report and audit is acknowledged when it arrives."""
        self.acked: Final[dict[tuple[str, int], float]] = {}
        """(start, sequence) -> when it was acknowledged."""
        self._broker = broker
        self._changed = threading.Condition()
        self.version: Final = MQTT_5 if speaks(broker, MQTT_5) else MQTT_311
        self._client = self._connect(self._receive)

    def stop(self) -> None:
        """Clear the retained messages of the test, and disconnect."""
        state = self.state
        topics = [down_topic(self.address, "policy")]
        if state is not None:
            topics += [self.policy_topic(), heartbeat_topic(self.address.fleet, state.bundle, state.cohort)]
        for topic in topics:
            self.publish(topic, b"", retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self, receive: Callable[[paho.MQTTMessage], None]) -> paho.Client:
        return subscribe(self._broker, self.version, uplink_filter(self.address.fleet), receive)

    def retained(self, wait_s: float = 1.0) -> list[Seen]:
        """Return the messages of the client that the broker has stored, as a new subscriber gets them."""
        found: list[Seen] = []
        client = self._connect(lambda message: found.append(_seen(message)) if self._is_ours(message) else None)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not found:
            time.sleep(0.02)
        time.sleep(0.1)
        client.disconnect()
        client.loop_stop()
        return [seen for seen in found if seen.retained]

    def _is_ours(self, message: paho.MQTTMessage) -> bool:
        try:
            return parse_up_topic(message.topic)[0] == self.address
        except MessageError:
            return False

    def _receive(self, message: paho.MQTTMessage) -> None:
        if not self._is_ours(message) or not message.payload:
            return
        seen = _seen(message)
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()
        if self.acknowledging and isinstance(seen.message, Report | Audit):
            self.ack(seen.message)

    def wait(self, condition: Callable[[], T | None], timeout_s: float) -> T | None:
        """Wait until `condition` returns something, and return it; None after the timeout."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = condition()
                remaining = deadline - time.monotonic()
                if found or remaining <= 0:
                    return found or None
                self._changed.wait(min(remaining, 0.1))

    @property
    def state(self) -> State | None:
        """The newest state that arrived."""
        states = [seen.message for seen in list(self.seen) if isinstance(seen.message, State)]
        return states[-1] if states else None

    def since(self, index: int, kind: type[T]) -> list[T]:
        """Return the messages of a type that arrived after the first `index` ones."""
        return [seen.message for seen in self.seen[index:] if isinstance(seen.message, kind)]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 1, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def ack(self, *messages: Any, **changes: Any) -> None:
        """Acknowledge messages of one start."""
        ack = Ack(start=messages[0].start, sequences=tuple(message.sequence for message in messages))
        self._client.publish(down_topic(self.address, "ack"), encode(msgspec.structs.replace(ack, **changes)), qos=1)
        for message in messages:
            self.acked.setdefault((message.start, message.sequence), time.monotonic())

    def refuse(self, message: Any, reason: str, *, final: bool) -> None:
        """Refuse one message."""
        refusal = Refusal(sequence=message.sequence, reason=reason, final=final)
        self.publish(down_topic(self.address, "ack"), encode(Ack(start=message.start, refused=(refusal,))))

    def policy_topic(self) -> str:
        """Return the topic of the policy of the client's cohort."""
        state = self.current()
        return policy_topic(self.address.fleet, state.bundle, state.cohort)

    def current(self) -> State:
        """Return the newest state. Raises MessageError if there is none."""
        if self.state is None:
            raise MessageError("the client has not published a state")
        return self.state

    def document(self, revision: int, exits: int, thresholds: Sequence[float | None], **fields: Any) -> PolicyDocument:
        """Return a policy for the client's cohort, with some fields replaced."""
        state = self.current()
        policy = Confidence(temperatures=(1.0,) * exits, thresholds=tuple(thresholds))
        scope = Scope(fleet=self.address.fleet, cohort=state.cohort)
        return PolicyDocument(
            **{
                "bundle": state.bundle,
                "revision": revision,
                "policy": policy,
                "scope": scope,
                **fields,
            }
        )

    def send_policy(self, document: PolicyDocument, *, key: PrivateKey | None = None) -> None:
        """Sign a policy and publish it."""
        self.send_policy_bytes(
            encode_document(document),
            key=key,
            to_device=document.scope is not None and document.scope.device is not None,
        )

    def send_policy_bytes(self, content: bytes, *, key: PrivateKey | None = None, to_device: bool = False) -> None:
        """Sign the JSON of a policy and publish it."""
        topic = down_topic(self.address, "policy") if to_device else self.policy_topic()
        self.publish(topic, sign(content, payload_type=PAYLOAD_TYPE, keys=[key or self.key]), retain=True)

    def command(self, **changes: Any) -> bytes:
        """Return the envelope of a command for the client, with some fields replaced."""
        fields = {
            "action": "report",
            "fleet": self.address.fleet,
            "device": self.address.device,
            "start": self.current().start,
            "id": secrets.token_hex(8),
        }
        return sign(encode(Command(**{**fields, **changes})), payload_type=COMMAND_TYPE, keys=[self.key])

    def send_command(self, envelope: bytes) -> None:
        """Publish a command."""
        self.publish(down_topic(self.address, "command"), envelope)

    def send_heartbeat(self, revision: int, counter: int, *, key: PrivateKey | None = None) -> None:
        """Sign and publish a heartbeat of the client's cohort."""
        state = self.current()
        content = Heartbeat(
            fleet=self.address.fleet, bundle=state.bundle, cohort=state.cohort, revision=revision, counter=counter
        )
        envelope = sign(encode(content), payload_type=HEARTBEAT_TYPE, keys=[key or self.key])
        self.publish(heartbeat_topic(self.address.fleet, state.bundle, state.cohort), envelope, retain=True)


def _seen(message: paho.MQTTMessage) -> Seen:
    kind = message.topic.rsplit("/", 1)[1]
    payload = bytes(message.payload)
    found: Uplink | None = None
    key = error = None
    try:
        if kind == "audit":
            key, found = verify_audit(payload, topic=message.topic)
        else:
            found = decode(payload, {"state": State, "report": Report, "profile": LatencyProfile}[kind])
    except MessageError as reason:
        error = str(reason)
    return Seen(kind, payload, found, error, key, message.qos, message.retain, time.monotonic())
