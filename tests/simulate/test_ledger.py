"""The ledger knows what must be stored, and its memory does not grow with the messages."""

import pytest

from edgeexit.simulate.ack_delays import AckDelays
from edgeexit.simulate.ledger import Ledger, SentMessage, SentSeries
from edgeexit.wire import Ack, DeviceAddress, Refusal

ADDRESS = DeviceAddress("shop", "s0", "sim-1")
START = "0" * 16


class Clock:
    now = 10.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(clock):
    return Ledger(clock=clock)


def add_report(ledger, owner, sequence):
    series = owner.series.setdefault(1, SentSeries(1))
    message = SentMessage(owner, sequence, "topic", b"%d" % sequence, series=series)
    ledger.add(message)
    ledger.sent(message, 10.0)
    return message


def add_audit(ledger, owner, sequence, samples=3):
    message = SentMessage(owner, sequence, "topic", b"", samples=samples, exits=2)
    ledger.add(message)
    ledger.sent(message, 10.0)
    return message


def test_the_newest_acknowledged_report_is_known_and_older_ones_are_deleted_with_it(ledger, clock):
    owner = ledger.open_start(ADDRESS, START)
    for sequence in (1, 2, 3):
        add_report(ledger, owner, sequence)
    clock.now = 12.0
    ledger.acknowledge(Ack(start=START, sequences=(2,)))
    series = owner.series[1]
    assert (series.acked, series.acked_payload, series.newest) == (2, b"2", 3)
    assert list(owner.pending) == [3]
    assert (ledger.acked_reports, ledger.superseded, ledger.waiting) == (1, 1, 1)
    assert ledger.delays.percentile(50) == pytest.approx(2.0, rel=0.03)


def test_an_older_acknowledgement_does_not_replace_a_newer_one(ledger):
    owner = ledger.open_start(ADDRESS, START)
    for sequence in (1, 2):
        add_report(ledger, owner, sequence)
    ledger.acknowledge(Ack(start=START, sequences=(2, 1)))
    assert (owner.series[1].acked, ledger.acked_reports) == (2, 1)


def test_audits_are_summed_up_once_however_often_they_are_acknowledged(ledger):
    owner = ledger.open_start(ADDRESS, START)
    for sequence in (4, 6):
        add_audit(ledger, owner, sequence)
    for _ in range(2):
        ledger.acknowledge(Ack(start=START, sequences=(4, 6, 9)))
    sums = owner.audits
    assert (sums.audits, sums.sequences, sums.samples, sums.exits) == (2, 10, 6, 4)


def test_refusals_are_counted_by_reason_and_only_final_ones_delete_the_message(ledger):
    owner = ledger.open_start(ADDRESS, START)
    add_report(ledger, owner, 1)
    add_audit(ledger, owner, 2)
    refusals = (Refusal(sequence=1, reason="revoked"), Refusal(sequence=2, reason="not approved", final=False))
    for _ in range(2):
        ledger.acknowledge(Ack(start=START, refused=refusals))
    assert (dict(ledger.refused), dict(ledger.held)) == ({"revoked": 1}, {"not approved": 1})
    assert (list(owner.pending), ledger.waiting) == ([2], 0)


def test_acknowledgements_of_other_starts_are_ignored(ledger):
    owner = ledger.open_start(ADDRESS, START)
    add_report(ledger, owner, 1)
    ledger.acknowledge(Ack(start="1" * 16, sequences=(1,)))
    assert ledger.waiting == 1


def test_a_message_is_due_again_only_after_its_puback(ledger):
    owner = ledger.open_start(ADDRESS, START)
    first, second = add_report(ledger, owner, 1), add_audit(ledger, owner, 2)
    second.answered(True)  # noqa: FBT003 - as the connection calls it
    assert list(ledger.due(10.0)) == []
    assert list(ledger.due(11.0)) == [second]
    ledger.sent(second, 11.0)
    assert list(ledger.due(11.0)) == []
    first.answered(False)  # noqa: FBT003
    assert list(ledger.due(10.5)) == [first]
    assert first.rejected_by_broker
    assert ledger.copies == 1


def test_acknowledged_messages_leave_nothing_behind_but_sums(ledger):
    owner = ledger.open_start(ADDRESS, START)
    for sequence in range(1, 20_001):
        (add_audit if sequence % 2 else add_report)(ledger, owner, sequence)
        ledger.acknowledge(Ack(start=START, sequences=(sequence,)))
    assert (len(owner.pending), len(ledger.unanswered), len(owner.series), len(ledger.starts)) == (0, 0, 1, 1)
    assert (owner.audits.audits, owner.series[1].acked, ledger.delays.count) == (10_000, 20_000, 20_000)


def test_reasons_are_counted_together_once_there_are_many(ledger):
    owner = ledger.open_start(ADDRESS, START)
    for sequence in range(1, 101):
        add_audit(ledger, owner, sequence)
        ledger.acknowledge(Ack(start=START, refused=(Refusal(sequence=sequence, reason=f"reason {sequence}"),)))
    assert len(ledger.refused) <= 51
    assert ledger.refused.total() == 100


def test_percentiles_of_delays_are_exact_to_2_percent():
    delays = AckDelays()
    assert delays.percentile(99) is None
    for index in range(1, 1001):
        delays.add(index / 100)
    assert delays.percentile(50) == pytest.approx(5.0, rel=0.03)
    assert delays.percentile(99) == pytest.approx(9.9, rel=0.03)
