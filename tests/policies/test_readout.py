"""Readouts as bytes."""

import numpy as np
import pytest

from edgeexit.policies.readout import readouts_from_bytes, readouts_to_bytes
from tests.policies.policy_examples import make_readouts


def test_reading_bytes_inverts_writing_them():
    readouts = make_readouts(7)[:, :, :4]
    content = b"".join(readouts_to_bytes(sample) for sample in readouts)
    np.testing.assert_array_equal(readouts_from_bytes(content, readouts.shape[1]), readouts)


def test_empty_bytes_give_no_samples():
    assert readouts_from_bytes(b"", 3).shape == (0, 3, 4)


@pytest.mark.parametrize("content", [b"123", b"1234", b"1" * 16])
def test_bytes_of_an_incomplete_sample_are_refused(content):
    with pytest.raises(ValueError, match="size"):
        readouts_from_bytes(content, 3)
