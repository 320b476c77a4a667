"""The numbers of the parts of an audit."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.wire import Audit
from edgeexit.wire.audit_parts import containing_audits, split_audit
from tests.agent.messages import make_audit


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


@settings(max_examples=15)
@given(st.integers(1, 2**40), st.integers(2, 256))
def test_the_audits_that_contain_a_part_are_found_from_its_number(sequence: int, samples: int) -> None:
    whole = numbered(sequence, samples)
    audits = [whole, *parts_of(whole)]
    for part in audits:
        containing = {one.sequence for one in audits if one is not part and set(part.samples) < set(one.samples)}
        assert set(containing_audits(part.sequence)) == containing


def test_a_whole_audit_is_part_of_none() -> None:
    assert containing_audits(7) == ()
