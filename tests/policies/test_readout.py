"""Readouts as bytes."""

import numpy as np

from edgeexit.policies.readout import readouts_from_bytes, readouts_to_bytes
from tests.policies.policy_examples import make_readouts


def test_readouts_survive_the_round_trip_through_bytes():
    readouts = make_readouts(7)[:, :, :4]
    content = b"".join(readouts_to_bytes(sample) for sample in readouts)
    np.testing.assert_array_equal(readouts_from_bytes(content, readouts.shape[1]), readouts)


def test_no_bytes_are_readouts_of_no_samples():
    assert readouts_from_bytes(b"", 3).shape == (0, 3, 4)
