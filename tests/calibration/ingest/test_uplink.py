"""Reading messages of devices: an invalid one raises, or is a poison message if its number can be read."""

import msgspec
import pytest
from edgeexit_calibration.ingest.uplink import RefusedUplink, read_uplink
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import MessageError
from edgeexit.latency import LatencyProfile
from edgeexit.signing import PrivateKey, public_key_text
from edgeexit.wire import MAX_BYTES, UP_TYPES, encode, up_topic
from tests.calibration.scenario import DEVICE, IDENTITY, START, audits_of, payload_of, report_of, state_of

DIGEST = "b" * 64
AUDIT, REPORT = up_topic(DEVICE, "audit"), up_topic(DEVICE, "report")
PROFILE = LatencyProfile(
    bundle=DIGEST, machine="m", runtime="r", threads=1, batch=1, cold_load_ms=1.0, first_run_ms=1.0, stages=()
)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (REPORT, b"\xff\x00garbage"),
        (REPORT, b""),
        (REPORT, b'{"sequence": 5}'),
        (REPORT, b'{"start": "0000000000000000", "sequence": -1}'),
        (REPORT, encode(report_of(DIGEST, sequence=2**63))),
        ("edgeexit/v1/shop/s0/a/up/secret", b"{}"),
        ("edgeexit/v1/shop/s0/a b/up/state", encode(state_of(DIGEST))),
        (up_topic(DEVICE, "state"), b"{" * 300_000),
        (AUDIT, b"[" * 100_000),
        (AUDIT, b'{"audit": "text"}'),
    ],
)
def test_an_invalid_message_without_a_readable_number_raises_message_error(topic, payload):
    with pytest.raises(MessageError):
        read_uplink(topic, payload)


def changed(message, **fields):
    """Return the JSON of a message with other fields, which need not be valid."""
    return msgspec.json.encode({**msgspec.to_builtins(message), **fields})


def test_an_invalid_message_with_a_number_is_a_poison_message(bundle):
    audit = audits_of(bundle, 2, first_sequence=7)[0]
    huge = msgspec.structs.replace(audit.samples[0], top1=(1, 2**24 + 1, 3))
    voted = msgspec.structs.replace(audit.samples[0], prediction=2**24)
    uneven = msgspec.structs.replace(
        audit.samples[0], top1=(1, 2), p1=(0.1,) * 2, p2=(0.1,) * 2, entropy=(0.1,) * 2, exit=1
    )
    signed = msgspec.json.decode(payload_of(AUDIT, audit))
    other = public_key_text(PrivateKey.generate().public_key())
    report = report_of(DIGEST, sequence=7)
    cases = {
        "digest": (REPORT, changed(report, bundle="no digest")),
        "uptime": (REPORT, changed(report, uptime_s="soon")),
        "exits": (REPORT, changed(report, exits=[])),
        "maximum": (REPORT, changed(report, extra="x" * MAX_BYTES)),
        "16777217": (AUDIT, payload_of(AUDIT, msgspec.structs.replace(audit, samples=(huge,)))),
        "16777216": (AUDIT, payload_of(AUDIT, msgspec.structs.replace(audit, samples=(voted,)))),
        "same number of exits": (
            AUDIT,
            payload_of(AUDIT, msgspec.structs.replace(audit, samples=(audit.samples[0], uneven))),
        ),
        "did not sign": (AUDIT, msgspec.json.encode({**signed, "key": other})),
        "for the topic": (AUDIT, payload_of("edgeexit/v1/shop/s0/camera-2/up/audit", audit)),
        "key": (AUDIT, msgspec.json.encode({**signed, "key": "?"})),
    }
    for words, (topic, payload) in cases.items():
        found = read_uplink(topic, payload)
        assert isinstance(found, RefusedUplink), words
        assert (found.address, found.start, found.refusal.sequence, found.refusal.final) == (DEVICE, START, 7, True)
        if words not in {"digest", "uptime", "exits", "key"}:
            assert words in found.refusal.reason
        assert len(found.refusal.reason) <= 300


def test_a_valid_audit_names_the_key_that_signed_it(bundle):
    [audit] = audits_of(bundle, 2)
    uplink = read_uplink(AUDIT, payload_of(AUDIT, audit), retained=True)
    assert (uplink.message, uplink.key, uplink.retained) == (audit, public_key_text(IDENTITY.public_key()), True)


@pytest.mark.parametrize(
    "fields",
    [
        {"machine": "m" * 1001},
        {"warnings": ["w" * 1001]},
        {"settings": {"k" * 1001: "v"}},
        {"warnings": ["w"] * 5000},
        {"bundle": "x"},
    ],
)
def test_every_text_of_a_profile_is_bounded(fields):
    topic = up_topic(DEVICE, "profile")
    assert read_uplink(topic, encode(PROFILE)).message == PROFILE
    with pytest.raises(MessageError, match="profile: "):
        read_uplink(topic, changed(PROFILE, **fields))


@given(kind=st.sampled_from(sorted(UP_TYPES)), payload=st.binary(max_size=200))
def test_no_payload_raises_anything_but_message_error(kind, payload):
    with pytest.raises(MessageError):
        read_uplink(up_topic(DEVICE, kind), payload)


@pytest.mark.parametrize(("sequence", "is_valid"), [(2**60 - 1, True), (2**60, False), (2**63 - 1, False)])
def test_an_audit_whose_parts_could_have_no_numbers_is_refused(bundle, sequence, is_valid):
    [audit] = audits_of(bundle, 1, first_sequence=sequence)
    found = read_uplink(AUDIT, payload_of(AUDIT, audit))
    assert isinstance(found, RefusedUplink) is not is_valid
