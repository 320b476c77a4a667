"""The numbers of the parts of an audit."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.wire import Audit
from edgeexit.wire.audit_parts import missing_parts, related_sequences, split_audit
from tests.agent.messages import make_audit
from tests.agent.outboxes import labels


def parts_of(audit: Audit) -> list[Audit]:
    """Return all parts of an audit, halves of halves included, each one after the part that contains it."""
    if len(audit.samples) == 1:
        return []
    halves = split_audit(audit)
    return [part for half in halves for part in (half, *parts_of(half))]


def numbered(sequence: int, samples: int) -> Audit:
    audit = make_audit(samples)
    return Audit(start="a" * 16, sequence=sequence, bundle=audit.bundle, cohort="c", revision=0, samples=audit.samples)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 2**40), min_size=2, max_size=2, unique=True), st.integers(2, 256))
def test_all_parts_have_different_numbers_that_a_double_holds_and_keep_start_and_samples(
    sequences: list[int], samples: int
) -> None:
    seen = set(sequences)
    for sequence in sequences:
        audit = numbered(sequence, samples)
        parts = parts_of(audit)
        assert [part.samples[0] for part in parts if len(part.samples) == 1] == list(audit.samples)
        assert {part.start for part in parts} == {audit.start}
        for part in parts:
            assert 2**50 < part.sequence < 2**53
            assert part.sequence not in seen
            seen.add(part.sequence)


@settings(max_examples=30)
@given(st.integers(1, 2**40), st.integers(1, 40), st.data())
def test_in_whatever_parts_and_order_an_audit_arrives_each_sample_is_stored_once(
    sequence: int, samples: int, data: st.DataObject
) -> None:
    whole = numbered(sequence, samples)
    every = [whole, *parts_of(whole)]
    arriving = data.draw(st.lists(st.sampled_from(every), max_size=8))
    stored: dict[int, Audit] = {}
    for audit in [*arriving, *every]:
        stored.update((part.sequence, part) for part in missing_parts(audit, stored))
    assert sorted(labels(*stored.values())) == list(range(samples))


def test_the_numbers_to_look_up_are_those_that_contain_an_audit_and_the_range_of_its_parts() -> None:
    assert related_sequences(7) == ((), range(2**50 + 7 * 512 + 2, 2**50 + 8 * 512))
    (half, _) = split_audit(numbered(7, 4))
    (quarter, _) = split_audit(half)
    assert related_sequences(quarter.sequence)[0] == (half.sequence, 7)
