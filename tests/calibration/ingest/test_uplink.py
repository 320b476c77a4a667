"""Reading messages of devices: an invalid one raises, or is a poison message if its number can be read."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.ingest.contradictions import contradictions
from edgeexit_calibration.ingest.report_head import count_reports
from edgeexit_calibration.ingest.uplink import RefusedUplink, read_uplink
from edgeexit_calibration.store.counts import counts_of
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.agent.counters import Counters
from edgeexit.errors import MessageError
from edgeexit.latency import BIN_COUNT, LatencyProfile
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Inference
from edgeexit.signing import PrivateKey, public_key_text
from edgeexit.wire import MAX_BYTES, SCORE_BINS, UP_TYPES, encode, up_topic
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
    scored = msgspec.structs.replace(audit.samples[0], scores=(0.5,) * 3, predictions=(1, 2**24 + 2, 3))
    mixed = msgspec.structs.replace(audit.samples[0], scores=(0.5,) * 3)
    uneven = msgspec.structs.replace(
        audit.samples[0], top1=(1, 2), p1=(0.1,) * 2, p2=(0.1,) * 2, entropy=(0.1,) * 2, exit=1
    )
    signed = msgspec.json.decode(payload_of(AUDIT, audit))
    other = public_key_text(PrivateKey.generate().public_key())
    report = report_of(DIGEST, sequence=7)
    cases = {
        "digest": (REPORT, changed(report, bundle="no digest")),
        "uptime": (REPORT, changed(report, uptime_s="soon")),
        "maximum": (REPORT, changed(report, extra="x" * MAX_BYTES)),
        "16777217": (AUDIT, payload_of(AUDIT, msgspec.structs.replace(audit, samples=(huge,)))),
        "16777216": (AUDIT, payload_of(AUDIT, msgspec.structs.replace(audit, samples=(voted,)))),
        "16777218": (AUDIT, payload_of(AUDIT, msgspec.structs.replace(audit, samples=(scored,)))),
        "same number of exits": (
            AUDIT,
            payload_of(AUDIT, msgspec.structs.replace(audit, samples=(audit.samples[0], uneven))),
        ),
        "every sample has scores": (
            AUDIT,
            payload_of(AUDIT, msgspec.structs.replace(audit, samples=(audit.samples[0], mixed))),
        ),
        "did not sign": (AUDIT, msgspec.json.encode({**signed, "key": other})),
        "for the topic": (AUDIT, payload_of("edgeexit/v1/shop/s0/camera-2/up/audit", audit)),
        "key": (AUDIT, msgspec.json.encode({**signed, "key": "?"})),
    }
    for words, (topic, payload) in cases.items():
        found = read_uplink(topic, payload)
        assert isinstance(found, RefusedUplink), words
        assert (found.address, found.start, found.refusal.sequence, found.refusal.final) == (DEVICE, START, 7, True)
        if words not in {"digest", "uptime", "key"}:
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


def with_exit(report, k, **fields):
    """Return a report whose exit k has other counters."""
    exits = list(report.exits)
    exits[k] = msgspec.structs.replace(exits[k], **fields)
    return msgspec.structs.replace(report, exits=tuple(exits))


def reason_of(report):
    """Return why the counters of a report are refused, or None; they must be those of the report otherwise."""
    counts, reasons = count_reports([read_uplink(REPORT, encode(report)).message])
    if not reasons:
        assert counts[0].tolist() == counts_of(report).tolist()
    return reasons.get(0)


def test_a_report_with_counters_that_no_agent_can_have_is_refused_for_good():
    report = report_of(DIGEST, sequence=7, counts=(5, 3, 2))
    full = msgspec.structs.replace(report_of(DIGEST, sequence=7, counts=(0, 0, 2**53)), failed=2**53)
    assert reason_of(full) is None
    without_histograms = report
    for k in range(3):
        without_histograms = with_exit(without_histograms, k, scores=(0,) * SCORE_BINS, latency=(0,) * BIN_COUNT)
    assert reason_of(without_histograms) is None
    impossible = {
        "exit 0 has 10 samples reached and 11 exited": with_exit(report, 0, exited=11),
        "leave only 5": with_exit(report, 1, reached=6),
        "counter 9007199254740993 is above 2^53": report_of(DIGEST, sequence=7, counts=(0, 0, 2**53 + 1)),
        "6 scores and 3 latencies": with_exit(report, 1, scores=(6, *(0,) * (SCORE_BINS - 1))),
        "2 scores and 3 latencies": with_exit(report, 2, latency=(3, *(0,) * (BIN_COUNT - 1))),
        "counter 9007199254740994 is above 2^53": msgspec.structs.replace(report, failed=2**53 + 2),
    }
    for words, message in impossible.items():
        assert words in reason_of(message)
    rows = np.array([counts_of(message) for message in (report, *impossible.values(), without_histograms)])
    found = contradictions(rows)
    assert [reason is None for reason in found] == [True, *[False] * len(impossible), True]
    assert all(words in reason for words, reason in zip(impossible, found[1:-1], strict=True))


@st.composite
def batches(draw):
    """Return the results of one batch on a device with 3 exits: any scores, NaN and infinity included."""
    exits = np.array(draw(st.lists(st.integers(0, 2), min_size=1, max_size=5)), np.int64)
    values = st.floats(width=32, allow_nan=True, allow_infinity=True)
    scores = np.array([[draw(values) if k <= taken else np.nan for k in range(3)] for taken in exits], np.float32)
    latency_ms = np.array([draw(st.floats(0, 1e9)) for _ in exits])
    count = len(exits)
    return Inference(
        predictions=np.zeros(count, np.int64),
        exits=exits,
        outputs=np.zeros((count, 2), np.float32),
        readouts=np.zeros((count, 4), np.float32),
        scores=scores,
        latency_ms=latency_ms,
        stage_ms=(),
        decide_ms=(),
    )


@given(steps=st.lists(st.tuples(st.integers(0, 2), st.none() | batches()), max_size=8))
def test_no_report_of_an_agent_is_refused(steps):
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5))
    counters = Counters(3)
    for sequence, (revision, batch) in enumerate(steps, start=1):
        if batch is None:
            counters.record_failure(revision)
        else:
            counters.record(revision, policy, batch)
        for found in counters.take_changed(always=0):
            report = msgspec.structs.replace(
                report_of(DIGEST, sequence=sequence), revision=found.revision, exits=found.exits, failed=found.failed
            )
            assert reason_of(report) is None
