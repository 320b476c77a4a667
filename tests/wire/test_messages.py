"""Messages: the JSON encoding, and what decoding refuses."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import MessageError
from edgeexit.wire import MAX_BYTES, Audit, AuditedSample, State, decode, encode

BUNDLE = "0f" * 32
STATE = State(online=True, bundle=BUNDLE, cohort="c", boot=1, revision=2, policy="beem", agent="0.1.0")


def test_decoding_inverts_encoding_and_the_json_is_readable():
    payload = encode(STATE)
    assert decode(payload, State) == STATE
    assert payload.startswith(b'{"online":true,')


def test_an_invalid_field_is_named():
    with pytest.raises(MessageError, match="bundle"):
        decode(encode(STATE).replace(BUNDLE.encode(), b"latest"), State)


def test_an_audited_sample_needs_a_value_per_exit():
    sample = AuditedSample(exit=0, top1=(1, 1), p1=(0.5, 0.5), p2=(0.1, 0.1), entropy=(1.0, 1.0))
    audit = Audit(outbox="o", sequence=1, bundle=BUNDLE, cohort="c", boot=1, revision=1, samples=(sample,))
    with pytest.raises(MessageError, match=r"samples\[0\]|samples\[\.\.\.\]"):
        decode(encode(audit).replace(b'"p2":[0.1,0.1]', b'"p2":[0.1]'), Audit)


@given(st.integers(0, 2**32 - 1))
def test_the_readouts_of_an_audited_sample_survive_the_wire_to_the_bit(seed):
    readouts = np.random.default_rng(seed).random((5, 4)).astype(np.float32)
    readouts[:, 0] = np.arange(5)
    sample = AuditedSample.from_readout(readouts, exit_index=1)
    received = msgspec.json.decode(msgspec.json.encode(sample), type=AuditedSample)
    np.testing.assert_array_equal(received.readouts(), readouts)


def test_a_message_that_is_too_large_is_refused():
    with pytest.raises(MessageError, match="larger"):
        decode(b" " * (MAX_BYTES + 1), State)


def test_deeply_nested_json_is_refused_and_does_not_crash():
    with pytest.raises(MessageError):
        decode(b'{"x":' + b"[" * 100_000, State)
