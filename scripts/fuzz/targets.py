"""The decoders of everything that comes from outside, each with its named errors and with valid inputs as seeds."""

import base64
import json
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from edgeexit_calibration.ingest.uplink import RefusedUplink, read_uplink

from edgeexit.agent.checked_file import read_checked
from edgeexit.agent.config import AgentConfig
from edgeexit.agent.fleet_link.command_check import CommandCheck
from edgeexit.agent.outbox.rows import OutboxRow, check_row
from edgeexit.agent.policy.check import Recipient, verify_policy
from edgeexit.errors import ConfigError, MessageError, PolicyError, SignatureError
from edgeexit.key_set import TrustedKeys, decode_key_set
from edgeexit.latency import LatencyProfile
from edgeexit.policies import decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, decode_public_key, load_private_key, sign, verify
from edgeexit.wire import (
    COMMAND_TYPE,
    HEARTBEAT_TYPE,
    UP_TYPES,
    Ack,
    Audit,
    BrokerConfig,
    Command,
    Confirmation,
    Heartbeat,
    Rejection,
    Report,
    SignedAudit,
    State,
    decode,
    parse_up_topic,
)
from edgeexit.wire.audit_signing import sign_audit, verify_audit
from edgeexit.wire.packet_codec import (
    CONNACK,
    PUBACK,
    PUBLISH,
    SUBACK,
    PacketError,
    PacketStream,
    encode_pubacks,
    encode_publish,
    parse_acknowledgement,
    parse_publish,
)

_GOLDEN: Final = Path(__file__).parent.parent.parent / "docs" / "protocol" / "golden"
_INDEX: Final = json.loads((_GOLDEN / "index.json").read_text())
_TOPICS: Final = {message["channel"]: message["topic"] for message in _INDEX["messages"]}
_RECIPIENT: Final = Recipient(
    **{name: _INDEX["recipient"][name] for name in ("fleet", "device", "cohort", "bundle")},
    exits=_INDEX["exits"],
    classes=_INDEX["classes"],
)
_FOLDER: Final = Path(tempfile.mkdtemp(prefix="edgeexit-fuzz-"))


class Target(NamedTuple):
    """A decoder."""

    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    """The only exceptions that it may raise."""
    seeds: tuple[bytes, ...]


def _key(name: str) -> PrivateKey:
    path = _FOLDER / name
    path.write_bytes((_GOLDEN / "keys" / f"TEST-ONLY-{name}.key").read_bytes())
    path.chmod(0o600)
    return load_private_key(path)


_CALIBRATOR, _OPERATOR, _DEVICE, _ROOT = map(_key, ("calibrator", "operator", "device", "root"))
_TRUSTED: Final = TrustedKeys.configured(
    _RECIPIENT.fleet,
    trusted=[_ROOT.public_key()],
    policy=[_CALIBRATOR.public_key()],
    command=[_OPERATOR.public_key()],
)


def _golden(channel: str) -> tuple[bytes, ...]:
    """Return the golden messages of a channel, also the invalid ones."""
    return tuple((_GOLDEN / m["file"]).read_bytes() for m in _INDEX["messages"] if m["channel"] == channel)


def _contents(channel: str) -> tuple[bytes, ...]:
    """Return what the valid envelopes of a channel contain."""
    valid = [m["file"] for m in _INDEX["messages"] if m["channel"] == channel and m["valid"]]
    envelopes = [msgspec.json.decode((_GOLDEN / file).read_bytes()) for file in valid]
    flat = [one for envelope in envelopes for one in (envelope if isinstance(envelope, list) else [envelope])]
    return tuple(base64.b64decode(one["payload"]) for one in flat)


def _audits() -> tuple[bytes, ...]:
    return tuple(bytes(decode(payload, SignedAudit).audit) for payload in _golden("audit")[:3])


def _round_trip(kind: Any) -> Callable[[bytes], None]:
    """Return a decoder that also checks that the decoded message can be encoded and decoded again."""

    def run(data: bytes) -> None:
        message = decode(data, kind)
        try:
            again: Any = decode(msgspec.json.encode(message), kind)
        except MessageError as error:
            raise AssertionError(f"{message} is encoded to something invalid: {error}") from error
        if again != message:
            raise AssertionError(f"{message} is {again} after encoding and decoding")

    return run


def _signed(kind: Any, payload_type: str, key: PrivateKey) -> Callable[[bytes], object]:
    """Return a decoder that gets its input in a valid envelope, so that fuzzing reaches what follows the signature."""
    role: Any = "command" if kind is Command else "policy"

    def run(data: bytes) -> object:
        envelope = sign(data, payload_type=payload_type, keys=[key])
        return decode(_TRUSTED.verify(envelope, payload_type=payload_type, role=role), kind)

    return run


def _policy(data: bytes) -> object:
    found = verify_policy(sign(data, payload_type=PAYLOAD_TYPE, keys=[_CALIBRATOR]), _TRUSTED, _RECIPIENT)
    if isinstance(found, Rejection):
        raise PolicyError(found.reason)
    return found


def _command(data: bytes) -> object:
    return CommandCheck(_RECIPIENT, start=_INDEX["start"]).accept(data, _TRUSTED)


def _signed_audit(data: bytes) -> object:
    return verify_audit(sign_audit(data, topic=_TOPICS["audit"], key=_DEVICE), topic=_TOPICS["audit"])


def _uplink(kind: str) -> Callable[[bytes], None]:
    """Return the calibrator's reader of a kind of message; a message that it refuses is not valid."""

    def run(data: bytes) -> None:
        if isinstance(found := read_uplink(_TOPICS[kind], data), RefusedUplink):
            raise MessageError(found.refusal.reason)

    return run


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _broker(data: bytes) -> object:
    config = msgspec.convert({"url": _text(data)}, BrokerConfig)
    return config.endpoint(), config.password_warning()


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = _FOLDER / name

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return run


def _packets(data: bytes) -> None:
    """Read MQTT packets; the first byte of the input says how it is divided."""
    step = max(1, data[0]) if data else 1
    stream = PacketStream(max_bytes=1000)
    for begin in range(1, len(data), step):
        for packet in stream.feed(data[begin : begin + step]):
            if packet.kind == PUBLISH:
                parse_publish(packet, version5=True)
                parse_publish(packet, version5=False)
            elif packet.kind in {PUBACK, SUBACK, CONNACK}:
                parse_acknowledgement(packet)


def _row(data: bytes) -> None:
    """Read a row whose columns are the JSON values in `data`, as SQLite could return them after bits have flipped."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = [data]
    if not isinstance(values, list):
        values = [values]
    if check_row(tuple(v.encode("utf-8", "replace") if isinstance(v, str) else v for v in values)) is None:
        raise ValueError("damaged")


_TOML: Final = b"""fleet = "plant"
shard = "s0"
device = "press-7"
cohort = "presses"
state_dir = "state"
trusted_keys = ["calibrator.pub"]
audit_fraction = 0.5
report_interval_s = 60
not_finite = "pass"

[broker]
url = "mqtts://broker.example:8883"
ca_file = "ca.crt"
username = "press-7"
password_file = "password"

[endpoint]
port = 8080
hosts = ["press-7.local"]
"""
_ROW_CRC: Final = OutboxRow(1, "report", "0123456789abcdef", 1, 4, 0, b"{}").checksum
_ROW: Final = b'[1,"report","0123456789abcdef",1,4,0,"{}",%d]' % _ROW_CRC
_URLS: Final = (
    b"mqtt://127.0.0.1:1883",
    b"mqtts://broker.example",
    b"wss://broker.example/mqtt",
    b"mqtt://[::1]:1883",
    b"mqtt://user:secret@host",
)
_PUBLIC: Final = tuple(path.read_bytes() for path in sorted((_GOLDEN / "keys").glob("*.pub")))
_CONTENT: Final = b'{"counter":17,"revision":5}'
_CHECKED: Final = b'{"content":%b,"crc32":%d}' % (_CONTENT, zlib.crc32(_CONTENT))

_PACKETS: Final = tuple(
    bytes([step])
    + encode_publish("a/b", b"payload", version5=version5, packet_id=packet_id, retain=False)
    + encode_pubacks([1, 2])
    for version5, packet_id, step in ((True, 1, 255), (False, 2, 3), (True, 0, 1))
)

TARGETS: Final[Mapping[str, Target]] = {
    "mqtt-packets": Target(_packets, (PacketError,), _PACKETS),
    "state": Target(_round_trip(State), (MessageError,), _golden("state")),
    "report": Target(_round_trip(Report), (MessageError,), _golden("report")),
    "profile": Target(_round_trip(LatencyProfile), (MessageError,), _golden("profile")),
    "ack": Target(_round_trip(Ack), (MessageError,), _golden("ack")),
    "audit": Target(_round_trip(Audit), (MessageError,), _audits()),
    "signed-audit": Target(lambda data: verify_audit(data, topic=_TOPICS["audit"]), (MessageError,), _golden("audit")),
    "audit-in-signature": Target(_signed_audit, (MessageError,), _audits()),
    **{
        f"calibrator-{kind}": Target(_uplink(kind), (MessageError,), _golden(kind))
        for kind in ("state", "report", "audit", "profile")
    },
    "envelope": Target(
        lambda data: verify(data, payload_type=PAYLOAD_TYPE, keys=[_CALIBRATOR.public_key()]),
        (SignatureError,),
        (*_golden("cohort_policy"), *_golden("device_policy")),
    ),
    "policy": Target(decode_document, (PolicyError,), _contents("cohort_policy")),
    "policy-in-envelope": Target(_policy, (PolicyError,), _contents("cohort_policy")),
    "command": Target(_command, (MessageError, SignatureError), _golden("command")),
    "command-in-envelope": Target(
        _signed(Command, COMMAND_TYPE, _OPERATOR), (MessageError, SignatureError), _contents("command")
    ),
    "heartbeat-in-envelope": Target(
        _signed(Heartbeat, HEARTBEAT_TYPE, _CALIBRATOR), (MessageError, SignatureError), _contents("heartbeat")
    ),
    "key-set": Target(decode_key_set, (SignatureError,), _contents("keys")),
    "key-history": Target(_TRUSTED.updated, (SignatureError,), _golden("keys")),
    "public-key": Target(lambda data: decode_public_key(data, name="key.pub"), (SignatureError,), _PUBLIC),
    "topic": Target(
        lambda data: parse_up_topic(_text(data)), (MessageError,), tuple(topic.encode() for topic in _TOPICS.values())
    ),
    "broker-url": Target(_broker, (ConfigError, ValueError), _URLS),
    "agent-toml": Target(_file("agent.toml", AgentConfig.load), (ConfigError,), (_TOML,)),
    "outbox-row": Target(_row, (ValueError,), (_ROW,)),
    "checked-file": Target(
        _file("checked.json", lambda path: read_checked(path, Confirmation)), (ValueError,), (_CHECKED,)
    ),
}

INTAKE: Final[Mapping[str, Any]] = {
    "fleet": _RECIPIENT.fleet,
    "bundle": _RECIPIENT.bundle,
    "golden": {kind: _golden(kind) for kind in UP_TYPES},
}
"""Whose messages the intake stores; arguments of `fuzz_intake`."""
