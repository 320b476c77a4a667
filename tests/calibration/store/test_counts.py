"""Counters of reports keep their values through the packed form."""

import numpy as np
import pytest
from edgeexit_calibration.store.counts import counts_of, pack_counts, unpack_counts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeexit.wire.counter_array import PER_EXIT, exit_counters, width_of
from tests.calibration.scenario import report_of

LARGEST = 2**63 - 1


@given(
    st.sampled_from((2, 3, 64)).flatmap(
        lambda exits: arrays(np.int64, width_of(exits), elements=st.integers(0, LARGEST))
    )
)
def test_unpacking_is_the_inverse_of_packing(counts):
    assert np.array_equal(unpack_counts(pack_counts(counts)), counts)


@pytest.mark.parametrize("value", [1, 2**32 - 1, 2**32, LARGEST])
def test_a_sparse_array_takes_few_bytes(value):
    counts = np.zeros(width_of(4), np.int64)
    counts[7] = value
    assert len(pack_counts(counts)) == 2 + 2 + (4 if value < 2**32 else 8)
    assert np.array_equal(unpack_counts(pack_counts(counts)), counts)


def test_the_counters_of_a_report_are_in_the_array():
    report = report_of("c" * 64, sequence=1)
    counts = counts_of(report)
    assert exit_counters(counts.tolist()) == report.exits
    assert counts[-1] == report.failed
    assert counts[1::PER_EXIT][: len(report.exits)].tolist() == [one.exited for one in report.exits]
