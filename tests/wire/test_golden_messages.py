"""The golden messages of docs/protocol/golden have the results that their index promises."""

import base64
import json
from pathlib import Path

import msgspec
import pytest

from edgeexit.agent.fleet_link.command_check import CommandCheck
from edgeexit.agent.policy.check import Recipient, verify_policy
from edgeexit.errors import EdgeExitError
from edgeexit.key_set import TrustedKeys, decode_history, encode_history
from edgeexit.policies import PolicyDocument, decode_document, encode_document
from edgeexit.signing import load_public_key
from edgeexit.wire import (
    HEARTBEAT_TYPE,
    PRESENCE_TYPE,
    UP_TYPES,
    Ack,
    CalibratorPresence,
    Heartbeat,
    Rejection,
    decode,
    encode,
    parse_up_topic,
)
from edgeexit.wire.audit_signing import verify_audit

FOLDER = Path(__file__).parent.parent.parent / "docs" / "protocol" / "golden"
INDEX = json.loads((FOLDER / "index.json").read_text())
MESSAGES = INDEX["messages"]
ROLES = {name: FOLDER / "keys" / f"TEST-ONLY-{key}.pub" for name, key in INDEX["trusted"].items()}


class RefusedError(Exception):
    """A device does not accept the message."""


def trusted():
    """Return the keys that the device of the index trusts."""
    roles = {role: [load_public_key(path)] for role, path in ROLES.items()}
    return TrustedKeys.configured(
        INDEX["recipient"]["fleet"], trusted=roles["root"], policy=roles["policy"], command=roles["command"]
    )


def recipient():
    names = {name: INDEX["recipient"][name] for name in ("fleet", "device", "cohort", "bundle")}
    return Recipient(**names, exits=INDEX["exits"], classes=INDEX["classes"])


def accept(channel, topic, payload):  # noqa: PLR0911 - one per kind of channel
    """Return what a receiver decodes; raise an EdgeExitError or RefusedError for an invalid message."""
    if channel in UP_TYPES:
        assert parse_up_topic(topic)[1] == channel
        return verify_audit(payload, topic=topic)[1] if channel == "audit" else decode(payload, UP_TYPES[channel])
    if channel == "ack":
        return decode(payload, Ack)
    if channel == "command":
        return CommandCheck(recipient(), start=INDEX["start"]).accept(payload, trusted())
    if channel == "heartbeat":
        return decode(trusted().verify(payload, payload_type=HEARTBEAT_TYPE, role="policy"), Heartbeat)
    if channel == "calibrator":
        signed = trusted().verify(payload, payload_type=PRESENCE_TYPE, role="policy")
        return msgspec.json.decode(signed, type=CalibratorPresence)
    if channel == "keys":
        return trusted().updated(payload)
    document = verify_policy(payload, trusted(), recipient())
    if isinstance(document, Rejection):
        raise RefusedError(document.reason)
    return document


def test_the_index_names_every_file():
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.json")} - {"index.json"}
    assert {message["file"] for message in MESSAGES} == files
    for channel in {message["channel"] for message in MESSAGES}:
        found = {message["valid"] for message in MESSAGES if message["channel"] == channel}
        assert found == {True, False} or channel == "profile", f"{channel} needs a valid and an invalid message"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["file"])
def test_a_golden_message_is_accepted_or_refused_as_promised(message):
    payload = (FOLDER / message["file"]).read_bytes()
    if message["valid"]:
        accept(message["channel"], message["topic"], payload)
    else:
        with pytest.raises((EdgeExitError, RefusedError)) as error:
            accept(message["channel"], message["topic"], payload)
        assert message["error"] in str(error.value)


@pytest.mark.parametrize("message", [m for m in MESSAGES if m["valid"]], ids=lambda message: message["file"])
def test_a_valid_message_is_encoded_to_the_same_content_again(message):
    payload = (FOLDER / message["file"]).read_bytes()
    channel = message["channel"]
    if channel in {"state", "report", "profile", "ack"}:
        kind = Ack if channel == "ack" else UP_TYPES[channel]
        again = encode(decode(payload, kind))
        assert decode(again, kind) == decode(payload, kind)
        if "unknown" not in message["file"] and "omitted" not in message["file"]:
            assert again == payload
    elif channel.endswith("policy"):
        content = base64.b64decode(json.loads(payload)["payload"])
        assert encode_document(decode_document(content)) == content
        assert isinstance(decode_document(content), PolicyDocument)
    elif channel == "keys":
        assert encode_history(decode_history(payload)) == payload


def test_every_byte_of_a_signed_message_counts():
    payload = (FOLDER / "cohort_policy.minimal.json").read_bytes()
    content = msgspec.json.decode(payload)
    inner = bytearray(base64.b64decode(content["payload"]))
    for position in range(len(inner)):
        changed = bytearray(inner)
        changed[position] ^= 1
        envelope = msgspec.json.encode({**content, "payload": base64.b64encode(changed).decode()})
        with pytest.raises(RefusedError, match="wrong signature"):
            accept("cohort_policy", "", envelope)
