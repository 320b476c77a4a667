"""Makes the messages that golden messages are built from, and the test keys."""

import hashlib
from typing import Any, Final

import msgspec
from channels import CHANNELS
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeexit.key_set import KEY_SET_TYPE, KeySet, RoleKeys, encode_key_set
from edgeexit.latency import BIN_COUNT, LatencyProfile, LatencySummary, StageProfile
from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import public_key_text, sign
from edgeexit.wire import (
    COMMAND_TYPE,
    HEARTBEAT_TYPE,
    PRESENCE_TYPE,
    SCORE_BINS,
    Audit,
    AuditedSample,
    CalibratorPresence,
    Command,
    ExitCounters,
    Heartbeat,
    Report,
    State,
    encode,
)

FLEET, SHARD, DEVICE, COHORT = "plant", "s0", "press-7", "presses"
BUNDLE: Final = hashlib.sha256(b"golden bundle").hexdigest()
START: Final = "0123456789abcdef"
_ROOT: Final = "edgeexit/v1/"
_NAMES: Final = {"fleet": FLEET, "shard": SHARD, "device": DEVICE, "cohort": COHORT, "bundle": BUNDLE}
TOPICS: Final = {channel.name: _ROOT + channel.topic.format(**_NAMES) for channel in CHANNELS}
KEY_NAMES: Final = ("root", "next-root", "calibrator", "operator", "device", "stranger")


def test_key(name: str) -> Ed25519PrivateKey:
    """Return a key that everybody knows: only for tests."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"edgeexit test key {name}".encode()).digest())


def make_counters(reached: int, exited: int) -> ExitCounters:
    """Return the counters of an exit."""
    return ExitCounters(
        reached=reached,
        exited=exited,
        scores=(0,) * (SCORE_BINS - 1) + (reached,),
        latency=(0,) * 13 + (exited,) + (0,) * (BIN_COUNT - 14),
    )


def make_state(**fields: Any) -> State:
    """Return a state with some fields replaced."""
    required: dict[str, Any] = {
        "online": True,
        "start": START,
        "uptime_s": 12.5,
        "bundle": BUNDLE,
        "cohort": COHORT,
        "revision": 4,
        "accepted": 4,
        "policy": "confidence",
        "agent": "0.1.0",
    }
    return State(**{**required, **fields})


def make_report(**fields: Any) -> Report:
    """Return a report with some fields replaced."""
    required: dict[str, Any] = {
        "start": START,
        "sequence": 1,
        "bundle": BUNDLE,
        "cohort": COHORT,
        "revision": 4,
        "uptime_s": 72.5,
        "exits": (make_counters(100, 70), make_counters(30, 20), make_counters(10, 10)),
    }
    return Report(**{**required, **fields})


def make_sample(**fields: Any) -> AuditedSample:
    """Return an audited sample with some fields replaced."""
    required: dict[str, Any] = {
        "exit": 0,
        "top1": (3, 3, 5),
        "p1": (0.75, 0.5, 0.9),
        "p2": (0.125, 0.25, 0.05),
        "entropy": (0.8, 1.2, 0.4),
    }
    return AuditedSample(**{**required, **fields})


def encode_audit(*samples: AuditedSample) -> bytes:
    """Return the JSON of an audit."""
    return encode(Audit(start=START, sequence=2, bundle=BUNDLE, cohort=COHORT, revision=4, samples=samples))


def make_document(**fields: Any) -> PolicyDocument:
    """Return a policy document with some fields replaced."""
    required: dict[str, Any] = {
        "bundle": BUNDLE,
        "revision": 5,
        "policy": Confidence(temperatures=(1.0, 1.0, 1.0), thresholds=(0.8, None)),
        "scope": Scope(fleet=FLEET, cohort=COHORT),
    }
    return PolicyDocument(**{**required, **fields})


def sign_policy(
    document: PolicyDocument, *, signed_by: tuple[str, ...] = ("calibrator",), kind: str = PAYLOAD_TYPE
) -> bytes:
    """Return the envelope of a policy document."""
    return sign(encode_document(document), payload_type=kind, keys=[test_key(name) for name in signed_by])


def make_command(**fields: Any) -> Command:
    """Return a command with some fields replaced."""
    required: dict[str, Any] = {
        "action": "report",
        "fleet": FLEET,
        "device": DEVICE,
        "start": START,
        "id": "00112233445566aa",
    }
    return Command(**{**required, **fields})


def make_heartbeat(**fields: Any) -> Heartbeat:
    """Return a heartbeat with some fields replaced."""
    required: dict[str, Any] = {"fleet": FLEET, "bundle": BUNDLE, "cohort": COHORT, "revision": 5, "counter": 17}
    return Heartbeat(**{**required, **fields})


def sign_key_set(version: int, root: str, *, signed_by: tuple[str, ...]) -> bytes:
    """Return the envelope of a key set whose only root key is `root`."""
    policy = public_key_text(test_key("calibrator").public_key())
    command = public_key_text(test_key("operator").public_key())
    content = KeySet(
        fleet=FLEET,
        version=version,
        roles={
            "root": RoleKeys(keys=(public_key_text(test_key(root).public_key()),)),
            "policy": RoleKeys(keys=(policy,)),
            "command": RoleKeys(keys=(command,)),
        },
    )
    return sign(encode_key_set(content), payload_type=KEY_SET_TYPE, keys=[test_key(name) for name in signed_by])


def make_profile(**fields: Any) -> LatencyProfile:
    """Return a latency profile with some fields replaced."""
    summary = LatencySummary(samples=1000, mean_ms=2.5, p50_ms=2.4, p90_ms=3.0, p99_ms=4.0)
    required: dict[str, Any] = {
        "bundle": BUNDLE,
        "machine": "aarch64 Cortex-A72",
        "runtime": "onnxruntime 1.23.2",
        "threads": 0,
        "batch": 1,
        "cold_load_ms": 120.0,
        "first_run_ms": 20.0,
        "stages": tuple(StageProfile(name=f"stage{k}", latency=summary) for k in range(3)),
    }
    return LatencyProfile(**{**required, **fields})


def sign_command(command: Command, *, signed_by: str = "operator") -> bytes:
    """Return the envelope of a command."""
    return sign(encode(command), payload_type=COMMAND_TYPE, keys=[test_key(signed_by)])


def make_presence(**fields: Any) -> CalibratorPresence:
    """Return the presence of a calibrator with some fields replaced."""
    required: dict[str, Any] = {"fleet": FLEET, "installation": START, "term": 1, "place": "host cloud-1, process 7"}
    return CalibratorPresence(**{**required, **fields})


def sign_presence(presence: CalibratorPresence) -> bytes:
    """Return the envelope of a presence."""
    return sign(msgspec.json.encode(presence), payload_type=PRESENCE_TYPE, keys=[test_key("calibrator")])


def sign_heartbeat(heartbeat: Heartbeat) -> bytes:
    """Return the envelope of a heartbeat."""
    return sign(encode(heartbeat), payload_type=HEARTBEAT_TYPE, keys=[test_key("calibrator")])
