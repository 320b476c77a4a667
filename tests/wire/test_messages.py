"""Messages: their JSON encoding, and which messages are refused."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import MessageError
from edgeexit.wire import MAX_BYTES, Audit, AuditedSample, Report, State, decode, encode

BUNDLE = "0f" * 32
STATE = State(
    online=True,
    bundle=BUNDLE,
    cohort="c",
    start="0" * 16,
    uptime_s=1,
    accepted=2,
    revision=2,
    policy="beem",
    agent="0.1.0",
)
READOUT = np.array([[2, 0.6, 0.3, 0.9], [1, 0.7, 0.2, 0.8], [0, 0.9, 0.05, 0.4]], dtype=np.float32)
"""[K, 4] of one sample, with a different class at every exit."""


def test_decoding_inverts_encoding_and_the_json_is_readable():
    payload = encode(STATE)
    assert decode(payload, State) == STATE
    assert payload.startswith(b'{"online":true,')


def test_an_invalid_field_is_named():
    with pytest.raises(MessageError, match="bundle"):
        decode(encode(STATE).replace(BUNDLE.encode(), b"latest"), State)


def test_revisions_above_2_to_the_53_are_refused_because_other_json_readers_round_them():
    last = encode(msgspec.structs.replace(STATE, revision=2**53))
    assert decode(last, State).revision == 2**53
    for kind, field in ((State, b'"revision"'), (Report, b'"revision"'), (Audit, b'"revision"')):
        with pytest.raises(MessageError, match=r"9007199254740992 - at `\$\.revision`"):
            decode(b"{" + field + b":9007199254740993}", kind)
    rejected = last.replace(b'"rejected":null', b'"rejected":{"reason":"r","revision":9007199254740993}')
    with pytest.raises(MessageError, match=r"rejected\.revision"):
        decode(rejected, State)


def test_an_audited_sample_needs_a_value_per_exit():
    sample = AuditedSample(exit=0, top1=(1, 1), p1=(0.5, 0.5), p2=(0.1, 0.1), entropy=(1.0, 1.0))
    audit = Audit(start="0" * 16, sequence=1, bundle=BUNDLE, cohort="c", revision=1, samples=(sample,))
    with pytest.raises(MessageError, match=r"samples\[0\]|samples\[\.\.\.\]"):
        decode(encode(audit).replace(b'"p2":[0.1,0.1]', b'"p2":[0.1]'), Audit)


def test_an_audited_sample_without_a_prediction_is_valid():
    fields = msgspec.to_builtins(AuditedSample.from_readout(READOUT, exit_index=1))
    assert fields.keys() == {"exit", "top1", "p1", "p2", "entropy"}, "defaults are omitted"
    sample = msgspec.convert({**fields, "label": None}, AuditedSample)
    assert sample.prediction is None
    assert sample.disagrees


@pytest.mark.parametrize("prediction", [-1, 1.5, "cat"])
def test_a_prediction_that_is_not_a_class_is_refused(prediction):
    fields = msgspec.to_builtins(AuditedSample.from_readout(READOUT, exit_index=0))
    with pytest.raises(msgspec.ValidationError, match="prediction"):
        msgspec.convert(fields | {"prediction": prediction}, AuditedSample)


def test_a_prediction_at_the_final_exit_is_ignored():
    sample = AuditedSample(exit=1, top1=(0, 1), p1=(0.5, 0.9), p2=(0.3, 0.1), entropy=(1.0, 0.3), prediction=7)
    assert not sample.disagrees


def test_rounding_errors_of_the_softmax_are_clipped_to_the_limits_of_the_schema():
    readout = np.array([[1, 1.0000001, -1e-9, -1e-8], [0, 1, 0, 0]], dtype=np.float32)
    sample = AuditedSample.from_readout(readout, exit_index=1)
    msgspec.convert(msgspec.to_builtins(sample), AuditedSample)  # would raise
    assert (sample.p1[0], sample.p2[0], sample.entropy[0]) == (1.0, 0.0, 0.0)


@given(st.integers(0, 2**32 - 1))
def test_the_readouts_of_an_audited_sample_are_decoded_bit_for_bit(seed):
    readouts = np.random.default_rng(seed).random((5, 4)).astype(np.float32)
    readouts[:, 0] = np.arange(5)
    sample = AuditedSample.from_readout(readouts, exit_index=1)
    received = msgspec.json.decode(msgspec.json.encode(sample), type=AuditedSample)
    np.testing.assert_array_equal(received.readouts(), readouts)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_scores_are_decoded_bit_for_bit(values):
    scores = np.array(values, dtype=np.float32)
    sample = AuditedSample.from_readout(READOUT, exit_index=1, scores=scores, predictions=np.array([2, 2, 0]))
    received = msgspec.json.decode(msgspec.json.encode(sample), type=AuditedSample)
    assert np.array(received.scores, dtype=np.float32).tobytes() == scores.tobytes()
    assert received.predictions == (2, 2, 0)


def test_predictions_that_are_the_classes_of_the_exits_are_omitted():
    scores = np.array([0.5, 0.25, 1.0], dtype=np.float32)
    sample = AuditedSample.from_readout(READOUT, exit_index=1, scores=scores, predictions=np.array([2, 1, 0]))
    fields = msgspec.to_builtins(sample)
    assert fields.keys() == {"exit", "top1", "p1", "p2", "entropy", "scores"}
    assert fields["scores"] == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("scores", [0.5, 0.5], "every list"),
        ("predictions", [1, 1, 1, 1], "every list"),
        ("scores", [0.5, 0.5, -1e39], "scores"),
    ],
)
def test_scores_and_predictions_need_a_value_per_exit_in_the_range_of_float32(name, values, error):
    fields = msgspec.to_builtins(AuditedSample.from_readout(READOUT, exit_index=1))
    with pytest.raises(msgspec.ValidationError, match=error):
        msgspec.convert(fields | {name: values}, AuditedSample)


def test_a_message_that_is_too_large_is_refused():
    with pytest.raises(MessageError, match="larger"):
        decode(b" " * (MAX_BYTES + 1), State)


def test_deeply_nested_json_is_refused_and_does_not_crash():
    with pytest.raises(MessageError):
        decode(b'{"x":' + b"[" * 100_000, State)
