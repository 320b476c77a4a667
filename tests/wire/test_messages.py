"""Topics and messages: the contract between device and cloud."""

import pytest

from edgeexit.errors import MessageError
from edgeexit.wire import (
    MAX_BYTES,
    Audit,
    AuditedSample,
    DeviceAddress,
    State,
    check_name,
    decode,
    encode,
    parse_up_topic,
    policy_topic,
    up_topic,
)

BUNDLE = "0f" * 32
STATE = State(online=True, bundle=BUNDLE, cohort="c", boot=1, revision=2, policy="beem", agent="0.1.0")


def test_a_topic_says_who_and_what():
    address = DeviceAddress("fleet", "s0", "cam-1")
    assert parse_up_topic(up_topic(address, "audit")) == (address, "audit")
    assert policy_topic("fleet", BUNDLE, "cameras") == f"edgeexit/v1/fleet/policy/{BUNDLE}/cameras"


@pytest.mark.parametrize(
    "topic",
    [
        "edgeexit/v1/f/s/d/down/ack",
        "edgeexit/v1/f/s/d/up/gossip",
        "edgeexit/v2/f/s/d/up/state",
        "edgeexit/v1/f/s/d/up",
        "edgeexit/v1/f/s/a b/up/state",
        "edgeexit/v1/f/policy/d/up/state",
    ],
)
def test_other_topics_are_refused(topic):
    with pytest.raises(MessageError):
        parse_up_topic(topic)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "é", "x" * 65])
def test_names_that_cannot_be_a_topic_level_are_refused(name):
    with pytest.raises(MessageError, match="device"):
        check_name("device", name)


def test_a_message_survives_the_wire_and_can_be_read_by_people():
    payload = encode(STATE)
    assert decode(payload, State) == STATE
    assert payload.startswith(b'{"online":true,')


def test_a_wrong_field_is_named():
    with pytest.raises(MessageError, match="bundle"):
        decode(encode(STATE).replace(BUNDLE.encode(), b"latest"), State)


def test_an_audited_sample_needs_every_exit():
    sample = AuditedSample(exit=0, top1=(1, 1), p1=(0.5, 0.5), p2=(0.1, 0.1), entropy=(1.0, 1.0))
    audit = Audit(outbox="o", sequence=1, bundle=BUNDLE, cohort="c", boot=1, revision=1, samples=(sample,))
    with pytest.raises(MessageError, match=r"samples\[0\]|samples\[\.\.\.\]"):
        decode(encode(audit).replace(b'"p2":[0.1,0.1]', b'"p2":[0.1]'), Audit)


def test_messages_are_bounded():
    with pytest.raises(MessageError, match="larger"):
        decode(b" " * (MAX_BYTES + 1), State)


def test_deep_nesting_is_refused_and_not_a_crash():
    with pytest.raises(MessageError):
        decode(b'{"x":' + b"[" * 100_000, State)
