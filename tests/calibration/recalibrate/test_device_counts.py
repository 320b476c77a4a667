"""How many audits the tolerated devices can have forged."""

from collections import Counter
from heapq import nlargest
from itertools import pairwise

import numpy as np
from edgeexit_calibration.recalibrate.device_counts import DeviceCounts
from hypothesis import given
from hypothesis import strategies as st


@given(
    devices=st.lists(st.integers(0, 6), max_size=60),
    tolerated=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 60), max_size=3),
)
def test_the_discounts_are_the_audits_of_the_devices_with_the_most_audits(devices, tolerated, cuts):
    state, discounts = DeviceCounts(tolerated=tolerated), []
    for start, end in pairwise([0, *sorted(cuts), 60]):
        state, part = state.counted(devices[start:end])
        discounts.extend(part.tolist())
    expected = [sum(nlargest(tolerated, Counter(devices[:end]).values())) for end in range(1, len(devices) + 1)]
    assert discounts == expected
    assert state.counts == Counter(devices)


def test_without_tolerated_devices_nothing_is_counted():
    state, discounts = DeviceCounts(tolerated=0).counted([1, 1, 2])
    np.testing.assert_array_equal(discounts, [0, 0, 0])
    assert state.counts == {}
