"""Audits from memory are those that the database would return."""

import numpy as np
from edgeexit_calibration import register
from edgeexit_calibration.recalibrate.recent_audits import RecentAudits
from edgeexit_calibration.recalibrate.stored_audits import AuditReader
from edgeexit_calibration.recalibrate.used_revisions import ALL_REVISIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibration.recalibrate.watching import GOAL, ingest
from tests.calibration.scenario import COHORT, audits_of

COUNT, KEEP, LIMIT = 120, 20, 15
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("oldest"), st.integers(0, COUNT), st.integers(0, 60)),
        st.tuples(st.just("newest"), st.integers(0, COUNT), st.integers(0, 60)),
    ),
    min_size=1,
    max_size=12,
)


class _Counting(AuditReader):
    """Counts how often the database is read."""

    reads = 0

    def newest(self, *arguments, **options):
        self.reads += 1
        return super().newest(*arguments, **options)


def readers(bundle):
    """Return a reader that reads each time, and one that keeps audits in memory."""
    policy = bundle.policy().policy
    direct = _Counting(1, policy, [0, 1], ALL_REVISIONS, loss="disagreement")
    return direct, RecentAudits(direct, keep=KEEP)


def test_any_order_of_reading_returns_what_the_database_contains(database, bundle):
    register(database, bundle, cohort=COHORT, **GOAL)
    for part in range(4):  # the ids that are left out are those of another revision
        ingest(database, *audits_of(bundle, 20, first_sequence=10 * part, seed=part))
        ingest(database, *audits_of(bundle, 10, first_sequence=10 * part + 5, seed=part, revision=7))

    @settings(max_examples=60, deadline=None)
    @given(steps=STEPS)
    def check(steps):
        direct, recent = readers(bundle)
        with database.reading() as session:
            for name, first, length in steps:
                if name == "oldest":
                    options = {"after": first, "until": first + length, "limit": LIMIT}
                else:
                    options = {"first": first, "last": first + length, "limit": KEEP}
                found, expected = (getattr(one, name)(session, **options) for one in (recent, direct))
                for column, expected_column in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(column, expected_column)
                assert len(recent._kept.audits.ids) <= 2 * KEEP + LIMIT, "memory is bounded"

    check()


def test_the_newest_audits_are_read_once_and_simulated_once(database, bundle):
    register(database, bundle, cohort=COHORT, **GOAL)
    ingest(database, *audits_of(bundle, COUNT))
    direct, recent = readers(bundle)
    with database.reading() as session:
        recent.newest(session, first=1, last=100, limit=KEEP)
        for last in (100, 105, 110):
            recent.oldest(session, after=last - 5, until=last, limit=LIMIT)
            assert recent.newest(session, first=1, last=last, limit=KEEP).scores.shape == (KEEP, 3)
    assert direct.reads == 1
