"""Acknowledgements are split to the limits of a message, whatever a device sends."""

from edgeexit_calibration.ingest.answers import answers
from edgeexit_calibration.ingest.receipts import Receipt
from edgeexit_calibration.ingest.uplink import RefusedUplink
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.wire import MAX_ACKED, MAX_BYTES, MAX_REFUSED, Ack, Refusal, decode, encode
from tests.calibration.scenario import DEVICE, START


@given(
    stored=st.integers(0, 3000),
    refused=st.integers(0, 300),
    poison=st.integers(0, 300),
    reason=st.text(max_size=30).map(lambda text: 50 * text),
)
def test_every_number_is_answered_once_in_messages_that_fit(stored, refused, poison, reason):
    numbers = [2**63 - 1 - number for number in range(stored + refused + poison)]
    refusals = tuple(Refusal(sequence=n, reason="later", final=False) for n in numbers[stored : stored + refused])
    receipt = Receipt(DEVICE, START, tuple(numbers[:stored]), refusals)
    sent = list(
        answers(
            [receipt],
            [RefusedUplink(DEVICE, START, Refusal(sequence=n, reason=reason)) for n in numbers[stored + refused :]],
        )
    )
    for address, ack in sent:
        payload = encode(ack)
        assert address == DEVICE
        assert len(payload) <= MAX_BYTES
        assert decode(payload, Ack) == ack
        assert len(ack.sequences) <= MAX_ACKED
        assert len(ack.refused) <= MAX_REFUSED
    assert [n for _, ack in sent for n in ack.sequences] == numbers[:stored]
    final = {refusal.sequence: refusal.final for _, ack in sent for refusal in ack.refused}
    assert final == {n: index >= refused for index, n in enumerate(numbers[stored:])}
