"""Decoders of outside input: they decode what arrives, or raise their named error; decoding inverts encoding."""

import contextlib
import json
from functools import partial

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from edgeexit.errors import MessageError, PolicyError, SignatureError
from edgeexit.key_set import decode_history, decode_key_set
from edgeexit.latency import LatencyProfile
from edgeexit.policies import decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, sign, verify
from edgeexit.wire import (
    Ack,
    Audit,
    Command,
    DeviceAddress,
    Heartbeat,
    Report,
    SignedAudit,
    State,
    decode,
    encode,
    parse_up_topic,
    up_topic,
)
from edgeexit.wire.audit_signing import sign_audit, verify_audit
from tests.wire.message_strategies import messages

KINDS = (State, Report, Audit, LatencyProfile, Ack, Command, Heartbeat)
KEY = PrivateKey.from_private_bytes(bytes(32))
TOPIC = "edgeexit/v1/plant/s0/press-7/up/audit"
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=20,
)
PAYLOADS = st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode())
slow_to_draw = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=15, deadline=None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@slow_to_draw
@given(data=st.data())
def test_decoding_inverts_encoding_for_every_valid_message(kind, data):
    message = data.draw(messages(kind))
    payload = encode(message)
    assert decode(payload, kind) == message
    assert encode(decode(payload, kind)) == payload


@given(PAYLOADS)
@example(b"")
@example(b"null")
@example(b'{"start":"\\ud800"}')
def test_arbitrary_payloads_raise_only_the_named_error(payload):
    decoders = [(partial(decode, payload, kind), MessageError) for kind in (*KINDS, SignedAudit)]
    decoders += [
        (partial(verify_audit, payload, topic=TOPIC), MessageError),
        (partial(verify, payload, payload_type=PAYLOAD_TYPE, keys=[KEY.public_key()]), SignatureError),
        (partial(decode_document, payload), PolicyError),
        (partial(decode_key_set, payload), SignatureError),
        (partial(decode_history, payload), SignatureError),
    ]
    for read, error in decoders:
        with contextlib.suppress(error):
            read()


@given(st.text(max_size=200))
@example("edgeexit/v1/a/b/c/up/state\n")
@example("edgeexit/v1/policy/b/c/up/state")
def test_an_arbitrary_topic_is_a_device_or_refused(topic):
    try:
        address, kind = parse_up_topic(topic)
    except MessageError:
        return
    assert up_topic(address, kind) == topic


@given(NAMES, NAMES, NAMES, st.sampled_from(["state", "report", "audit", "profile"]))
def test_every_topic_of_a_device_is_parsed(fleet, shard, device, kind):
    assume(shard not in {"policy", "heartbeat", "keys"})
    address = DeviceAddress(fleet, shard, device)
    assert parse_up_topic(up_topic(address, kind)) == (address, kind)


@slow_to_draw
@given(messages(Audit), st.binary(max_size=3), st.integers(0, 10_000))
def test_a_signed_audit_that_differs_in_one_place_is_refused(audit, insert, place):
    payload = sign_audit(encode(audit), topic=TOPIC, key=KEY)
    assert verify_audit(payload, topic=TOPIC)[1] == audit
    place %= len(payload)
    changed = payload[:place] + insert + payload[place + 1 :]
    assume(changed != payload)
    try:
        _, found = verify_audit(changed, topic=TOPIC)
    except MessageError:
        return
    assert found == audit, "only what is not signed may differ, e.g. white space and unknown fields"


@given(st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_an_envelope_contains_what_was_signed_and_for_its_type_only(content, payload_type):
    envelope = sign(content, payload_type=payload_type, keys=[KEY])
    assert verify(envelope, payload_type=payload_type, keys=[KEY.public_key()]) == content
    with pytest.raises(SignatureError, match="payload type"):
        verify(envelope, payload_type=f"{payload_type}x", keys=[KEY.public_key()])
