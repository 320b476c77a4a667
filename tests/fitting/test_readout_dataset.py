"""Readout datasets: checks, and other temperatures."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import MapLosses, ReadoutDataset, exit_logits
from edgeexit.fitting.soundness import require_sound
from edgeexit.policies.readout import P1, TOP1
from tests.fitting.populations import population
from tests.fitting.reference_readouts import read_out

VALID = population(50, seed=0)


def changed(**fields) -> ReadoutDataset:
    return msgspec.structs.replace(VALID, **fields)


def with_readout(value: float) -> ReadoutDataset:
    readouts = VALID.readouts.copy()
    readouts[3, 2, P1] = value
    return changed(readouts=readouts)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (with_readout(np.nan), "exit 2 are not all finite, first in sample 3"),
        (with_readout(np.inf), "exit 2 are not all finite"),
        (changed(labels=np.full(50, 3)), "all 50 labels are class 3"),
        (changed(labels=np.append(VALID.labels[:-1], 10)), "label 10 is outside the classes 0 to 9"),
        (changed(labels=np.append(VALID.labels[:-1], -1)), "label -1 is outside the classes 0 to 9"),
        (
            changed(logits=None, labels=np.append(VALID.labels[:-1], -1)),
            "label -1 is outside the classes, which start at 0",
        ),
        (changed(labels=VALID.labels[:-1]), r"labels have shape \(49,\) where 50 samples"),
        (changed(costs=(1.0, 2.0, 3.0)), r"readouts have shape \(50, 4, 4\)"),
        (changed(costs=(1.0, 2.0, 2.0, 3.0)), "costs .* must be increasing"),
        (changed(costs=(1.0, 2.0, 3.0, np.nan)), "costs .* must be increasing"),
        (changed(temperatures=(1.0,) * 3), "3 temperatures are given for 4 exits; give one per exit"),
        (VALID.take(np.arange(0)), "the readout dataset has no samples; give at least 1"),
        (
            changed(maps=MapLosses(disagreement=np.zeros((50, 3), np.float32))),
            r"maps\.disagreement has shape \(50, 3\)",
        ),
        (changed(labels=None, maps=MapLosses(disagreement=np.full((50, 4), 1.5, np.float32))), "between 0 and 1"),
        (changed(labels=None, maps=MapLosses(disagreement=np.full((50, 4), np.nan, np.float32))), "between 0 and 1"),
    ],
)
def test_a_malformed_dataset_is_refused_in_one_line(dataset, message):
    with pytest.raises(FittingError, match=message) as raised:
        require_sound(dataset)
    assert "\n" not in str(raised.value)


def test_a_valid_dataset_passes():
    require_sound(VALID)
    require_sound(VALID.without_labels())


def test_readouts_at_other_temperatures_equal_those_of_the_logits():
    logits = np.random.default_rng(0).normal(size=(20, 2, 5)) * 3
    cold = ReadoutDataset.from_logits(logits, costs=(1.0, 2.0))
    warm, expected = cold.at((2.0, 0.5)), read_out(logits / np.array([[2.0], [0.5]]))
    np.testing.assert_allclose(warm.readouts, expected[..., :4], atol=1e-5)
    np.testing.assert_allclose(warm.exit_probabilities(1), expected[:, 1, 4:], atol=1e-6)
    assert (warm.readouts[..., TOP1] == cold.readouts[..., TOP1]).all()


def test_other_temperatures_need_logits():
    bare = changed(logits=None)
    assert bare.at(bare.temperatures) is bare
    with pytest.raises(FittingError, match="need the logits"):
        bare.at((2.0,) * 4)


def test_a_temperature_far_from_one_does_not_underflow():
    """At temperature 1 all probabilities but one are 0; the readouts under others must not come from them."""
    logits = 1e3 * np.random.default_rng(0).normal(size=(20, 2, 5))
    seen = ReadoutDataset.from_logits(logits, costs=(1.0, 2.0)).at((1e3, 1e3))
    np.testing.assert_allclose(seen.readouts, read_out(logits / 1e3)[..., :4], atol=1e-5)


def test_samples_that_are_taken_share_the_logits_and_have_the_same_probabilities():
    rows = np.array([7, 3, 40])
    taken = VALID.take(np.array([3, 7, 9, 40])).take(np.array([1, 0, 3]))
    assert taken.logits is VALID.logits
    np.testing.assert_array_equal(taken.at((2.0,) * 4).readouts, VALID.at((2.0,) * 4).readouts[rows])
    np.testing.assert_array_equal(taken.exit_probabilities(2), VALID.exit_probabilities(2)[rows])


def test_blocks_of_samples_equal_the_whole(monkeypatch):
    monkeypatch.setattr(exit_logits, "BLOCK", 70)
    whole = VALID.exit_probabilities(1)
    blocks = list(VALID.probability_blocks(1))
    assert len(blocks) == 8
    for part, block in blocks:
        np.testing.assert_array_equal(block, whole[part])
    wide = np.concatenate(list(VALID.readout_blocks()))
    np.testing.assert_array_equal(wide[:, :, :4], VALID.readouts)
    np.testing.assert_array_equal(wide[:, 1, 4:], whole)
