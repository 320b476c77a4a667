"""The counters of reports, read for a whole batch at once, are those that decoding each report gives."""

import json

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.ingest.report_head import ReportHead, count_reports, decode_head
from edgeexit_calibration.store.counts import counts_of
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import MessageError
from edgeexit.wire import MAX_BYTES, MAX_EXITS, Report, decode, encode
from edgeexit.wire.counter_array import exit_counters, width_of
from tests.calibration.scenario import report_of

DIGEST = "b" * 64


def possible_report(exits, seed):
    """Return a report whose counters contradict nothing."""
    generator = np.random.default_rng(seed)
    counts = np.zeros(width_of(exits), np.int64)
    rows = counts[:-1].reshape(exits, -1)
    rows[:, 1] = generator.integers(0, 10 ** generator.integers(1, 15), exits)
    rows[:, 0] = rows[::-1, 1].cumsum()[::-1]
    for row in rows:
        row[2 + generator.integers(20)], row[22 + generator.integers(40)] = row[0], row[1]
    report = report_of(DIGEST, sequence=seed)
    return msgspec.structs.replace(report, exits=exit_counters(counts.tolist()), failed=int(generator.integers(100)))


def written_otherwise(report):
    """Return the JSON of a report with spaces, its keys in another order."""
    content = msgspec.to_builtins(report)
    content["exits"] = [dict(reversed(one.items())) for one in content["exits"]]
    return json.dumps(content, indent=1).encode()


@given(st.lists(st.tuples(st.sampled_from((2, 3, MAX_EXITS)), st.integers(0, 1000), st.booleans()), max_size=6))
def test_a_batch_has_the_counters_of_its_reports(drawn):
    reports = [possible_report(exits, seed) for exits, seed, _ in drawn]
    payloads = [
        written_otherwise(report) if otherwise else encode(report)
        for report, (_, _, otherwise) in zip(reports, drawn, strict=True)
    ]
    heads = [decode_head(payload) for payload in payloads]
    counts, reasons = count_reports(heads)
    assert not reasons
    assert [counts[place].tolist() for place in range(len(reports))] == [counts_of(one).tolist() for one in reports]
    for head, report in zip(heads, reports, strict=True):
        assert all(getattr(head, name) == getattr(report, name) for name in ("sequence", "failed", "losses", "start"))


@given(st.binary(max_size=8), st.integers(0, 2**20), st.integers(0, 3))
def test_what_is_no_report_is_refused_as_when_it_is_decoded_whole(inserted, place, removed):
    """Changes anywhere in the counters; a report that decodes must have the same counters."""
    payload = encode(possible_report(2, place))
    begin = payload.index(b'"exits":') + 8
    place = begin + place % (payload.index(b',"failed"') - begin)
    payload = payload[:place] + inserted + payload[place + removed :]
    try:
        expected = decode(payload, Report)
    except MessageError:
        expected = None
    try:
        counts, reasons = count_reports([decode_head(payload)])
    except MessageError:
        counts, reasons = {}, {0: "no JSON"}
    if expected is None:
        assert reasons
    else:
        assert reasons or counts[0].tolist() == counts_of(expected).tolist()


VALID = bytes(decode_head(encode(possible_report(MAX_EXITS, 0))).exits)


@pytest.mark.parametrize(
    "exits",
    [
        b"[]",
        b"null",
        b"{}",
        b"[1,2]",
        b'[{"reached":1}]',
        b"[" * 10_000 + b"]" * 10_000,
        VALID.replace(b'"reached":', b'"reached7":', 1),
        VALID.replace(b'"reached":', b'"7reached":', 1),
        VALID.replace(b'"latency":', b'"latency1":', 1).replace(b'"scores":[', b'"scores":[1', 1),
        VALID[:-1] + b",{}]",
    ],
)
def test_counters_of_another_form_are_refused_with_a_reason(exits):
    head = msgspec.structs.replace(decode_head(encode(possible_report(2, 1))), exits=msgspec.Raw(exits))
    counts, reasons = count_reports([head, decode_head(encode(possible_report(2, 2)))])
    assert list(counts) == [1]
    assert "exits" in reasons[0]


def test_a_counter_that_exceeds_64_bits_is_refused():
    payload = encode(possible_report(2, 3)).replace(b'"reached":', b'"reached":9999999999999999999', 1)
    counts, reasons = count_reports([decode_head(payload)])
    assert not counts
    assert "2^53" in reasons[0]


def test_a_report_that_is_too_large_is_refused():
    with pytest.raises(MessageError, match="maximum"):
        decode_head(b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize("name", ["reached", "scores"])
def test_a_report_with_a_digit_in_a_name_does_not_affect_the_others_of_its_batch(name):
    good = possible_report(2, 1), possible_report(2, 2)
    changed = encode(possible_report(2, 3)).replace(f'"{name}"'.encode(), f'"{name}7"'.encode(), 1)
    counts, reasons = count_reports([decode_head(one) for one in (encode(good[0]), changed, encode(good[1]))])
    assert counts.keys() == {0, 2}
    assert name in reasons[1]
    assert [counts[place].tolist() for place in (0, 2)] == [counts_of(one).tolist() for one in good]


@pytest.mark.parametrize(("name", "value"), [("bundle", "B" * 64), ("cohort", "a b"), ("cohort", "")])
def test_the_names_of_the_cohort_are_checked(name, value):
    payload = encode(msgspec.structs.replace(possible_report(2, 1), **{name: value}))
    for _ in range(2):
        with pytest.raises(MessageError, match=rf"Report: .*`\$\.{name}`"):
            decode_head(payload)


def test_a_head_has_the_fields_of_a_report():
    of_head, of_report = ({one.name: one for one in msgspec.structs.fields(kind)} for kind in (ReportHead, Report))
    assert of_head.keys() == of_report.keys()
    for name in of_head.keys() - {"exits", "bundle", "cohort"}:
        head, report = of_head[name], of_report[name]
        assert (head.type, head.default, head.required) == (report.type, report.default, report.required), name
