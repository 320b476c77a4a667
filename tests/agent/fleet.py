"""The cloud's end of the connection, for tests: records what devices publish, and sends policies, acks and commands."""

import secrets
from typing import Any

from edgeexit.agent import AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import (
    COMMAND_TYPE,
    HEARTBEAT_TYPE,
    UP_TYPES,
    Ack,
    BrokerConfig,
    BrokerSession,
    Command,
    Delivery,
    Heartbeat,
    Report,
    SessionOptions,
    State,
    decode,
    down_topic,
    encode,
    heartbeat_topic,
    keys_topic,
    parse_up_topic,
    policy_topic,
    uplink_filter,
)
from edgeexit.wire.audit_signing import verify_audit
from tests.waiting import wait_for


class Fleet:
    """Records everything that devices publish, and sends policies, acks and commands."""

    def __init__(self, broker: str | BrokerConfig, bundle: Bundle, key: PrivateKey) -> None:
        self.bundle = bundle
        self.key = key
        self.received: list[tuple[str, Any]] = []
        """(device, message) of everything that devices published, in order of arrival."""
        self._session = BrokerSession(
            BrokerConfig(url=broker) if isinstance(broker, str) else broker,
            SessionOptions(client_id="fleet", subscriptions=(uplink_filter("plant"),), session_expiry_s=0),
            on_message=self._record,
        )

    def start(self) -> None:
        self._session.start()
        assert self._session.wait_connected(10)

    def stop(self) -> None:
        self._session.stop(drain_s=0.5)

    def reconnected(self) -> None:
        wait_for(lambda: self._session.connected, "the connection of the test's own session")

    def messages(self, config: AgentConfig, kind: Any) -> list[Any]:
        """Return the messages of a type that the device has published, in order of arrival."""
        return [
            message for device, message in list(self.received) if device == config.device and isinstance(message, kind)
        ]

    def state(self, config: AgentConfig) -> State | None:
        states = self.messages(config, State)
        return states[-1] if states else None

    def document(self, revision: int, threshold: float | None = 0.5, **changes: Any) -> PolicyDocument:
        exits = changes.pop("exits", len(self.bundle.manifest.stages))
        policy = Confidence(temperatures=(1.0,) * exits, thresholds=(threshold,) * (exits - 1))
        fields = {
            "bundle": self.bundle.digest,
            "scope": Scope(fleet="plant", cohort="default"),
            "policy": policy,
            **changes,
        }
        return PolicyDocument(revision=revision, **fields)

    def envelope(self, document: PolicyDocument, key: PrivateKey | None = None) -> bytes:
        return sign(encode_document(document), payload_type=PAYLOAD_TYPE, keys=[key or self.key])

    def send_policy(self, config: AgentConfig, document: PolicyDocument, key: PrivateKey | None = None) -> None:
        self.send_policy_bytes(
            config,
            self.envelope(document, key),
            to_device=document.scope is not None and document.scope.device is not None,
        )

    def send_policy_bytes(self, config: AgentConfig, payload: bytes, *, to_device: bool = False) -> None:
        topic = (
            down_topic(config.address, "policy")
            if to_device
            else policy_topic(config.fleet, self.bundle.digest, config.cohort)
        )
        assert self._session.publish(topic, payload, retain=True)

    def send_heartbeat(self, config: AgentConfig, counter: int, revision: int) -> None:
        heartbeat = Heartbeat(
            fleet=config.fleet, bundle=self.bundle.digest, cohort=config.cohort, revision=revision, counter=counter
        )
        topic = heartbeat_topic(config.fleet, self.bundle.digest, config.cohort)
        envelope = sign(encode(heartbeat), payload_type=HEARTBEAT_TYPE, keys=[self.key])
        assert self._session.publish(topic, envelope, retain=True)

    def send_keys(self, config: AgentConfig, history: bytes) -> None:
        assert self._session.publish(keys_topic(config.fleet), history, retain=True)

    def send_ack(self, config: AgentConfig, *messages: Any) -> None:
        ack = Ack(start=messages[0].start, sequences=tuple(message.sequence for message in messages))
        self.send_ack_bytes(config, encode(ack))

    def send_ack_bytes(self, config: AgentConfig, payload: bytes) -> None:
        assert self._session.publish(down_topic(config.address, "ack"), payload)

    def send_command(self, config: AgentConfig, action: Any) -> None:
        state = self.state(config)
        assert state is not None
        command = Command(
            action=action, fleet=config.fleet, device=config.device, start=state.start, id=secrets.token_hex(8)
        )
        self.send_command_bytes(config, sign(encode(command), payload_type=COMMAND_TYPE, keys=[self.key]))

    def send_command_bytes(self, config: AgentConfig, payload: bytes) -> None:
        assert self._session.publish(down_topic(config.address, "command"), payload, expiry_s=60)

    def _record(self, delivery: Delivery) -> None:
        address, kind = parse_up_topic(delivery.topic)
        message = (
            verify_audit(delivery.payload, topic=delivery.topic)[1]
            if kind == "audit"
            else decode(delivery.payload, UP_TYPES[kind])
        )
        self.received.append((address.device, message))


def wait_for_revision(fleet: Fleet, config: AgentConfig, revision: int) -> State:
    return wait_for(
        lambda: (state := fleet.state(config)) and state.online and state.revision == revision and state,
        f"revision {revision}",
    )


def wait_for_rejection(fleet: Fleet, config: AgentConfig, reason: str) -> State:
    return wait_for(
        lambda: (state := fleet.state(config)) and state.rejected and reason in state.rejected.reason and state,
        f"'{reason}', not {fleet.state(config)}",
    )


def newest_reports(fleet: Fleet, config: AgentConfig) -> dict[int, Report]:
    """Return the report with the highest sequence of every revision."""
    return {report.revision: report for report in sorted(fleet.messages(config, Report), key=lambda r: r.sequence)}


def wait_for_reports(fleet: Fleet, config: AgentConfig, samples: int) -> dict[int, Report]:
    """Wait until the newest reports of all revisions count this number of samples."""

    def complete() -> dict[int, Report] | None:
        newest = newest_reports(fleet, config)
        total = sum(exit_.exited for report in newest.values() for exit_ in report.exits)
        return newest if total == samples else None

    found: dict[int, Report] = wait_for(complete, f"reports of {samples} samples")
    return found
