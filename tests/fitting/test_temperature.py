"""Temperatures: calibrated ones, and the dataset's where the gain is not significant."""

import msgspec
import numpy as np
import pytest

from edgeexit.fitting import MapLosses, ReadoutDataset
from edgeexit.fitting.exit_logits import read_out
from edgeexit.fitting.temperature import fit_temperatures, temperature_variants
from tests.fitting.populations import population


def calibrated(samples, *, sharpness, classes=3, seed=0):
    """Return two exits whose labels are drawn from their probabilities; logits are multiplied by `sharpness` [2]."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(samples, classes))
    p = read_out(logits)[:, 4:]
    labels = (random.random((samples, 1)) > p.cumsum(axis=1)).sum(axis=1)
    both = np.stack([sharpness[0] * logits, sharpness[1] * logits], axis=1)
    return ReadoutDataset.from_logits(both, costs=(1.0, 2.0), labels=labels)


def test_the_temperature_is_the_factor_by_which_logits_are_too_large():
    assert fit_temperatures(calibrated(20_000, sharpness=(3.0, 0.5))) == pytest.approx((3.0, 0.5), rel=0.05)


def test_the_fit_does_not_depend_on_the_temperature_of_the_readouts():
    dataset = calibrated(5000, sharpness=(3.0, 0.5))
    assert fit_temperatures(dataset.at((2.0, 0.7))) == pytest.approx(fit_temperatures(dataset), abs=0.01)


def test_two_right_samples_of_three_give_the_temperature_of_probability_two_thirds():
    """With logits +-1 of two classes, sigmoid(2 / T) = 2/3 at T = 2 / ln 2."""
    logits = np.tile(np.array([1.0, -1.0]), (300, 2, 1))
    labels = np.tile([0, 0, 1], 100)
    dataset = ReadoutDataset.from_logits(logits, costs=(1.0, 2.0), labels=labels)
    assert fit_temperatures(dataset) == pytest.approx((2 / np.log(2),) * 2, abs=0.002)


def test_an_insignificant_gain_keeps_the_temperature():
    assert fit_temperatures(calibrated(300, sharpness=(1.05, 1.0))) == (1.0, 1.0)


def test_without_labels_the_final_exit_keeps_its_temperature_and_the_others_are_fitted_to_its_predictions():
    first, *_, last = fit_temperatures(population(3000, seed=1, labels=False, sharpness=3.0))
    assert first != 1.0
    assert last == 1.0


def test_an_exit_that_is_never_wrong_keeps_its_temperature():
    dataset = population(500, seed=1)
    right = msgspec.structs.replace(dataset, labels=dataset.readouts[:, 0, 0].astype(np.int64))
    assert fit_temperatures(right)[0] == 1.0


def test_a_probability_of_zero_for_the_true_class_gives_a_finite_temperature():
    dataset = calibrated(2000, sharpness=(400.0, 1.0))
    assert (dataset.exit_probabilities(0) == 0).any()
    assert np.isfinite(fit_temperatures(dataset)).all()


@pytest.mark.parametrize("why", ["no probabilities", "maps", "one class"])
def test_the_temperatures_stay_if_none_can_be_fitted(why):
    dataset = msgspec.structs.replace(population(200, seed=1, sharpness=5.0), temperatures=(1.0, 1.1, 1.2, 1.3))
    fractions = np.zeros((200, 4), dtype=np.float32)
    changed = {
        "no probabilities": {"logits": None},
        "maps": {"labels": None, "maps": MapLosses(disagreement=fractions)},
        "one class": {"labels": np.zeros(200, dtype=np.int64)},
    }[why]
    assert fit_temperatures(msgspec.structs.replace(dataset, **changed)) == (1.0, 1.1, 1.2, 1.3)


def test_there_are_two_variants_if_the_temperatures_differ_and_else_one():
    dataset = calibrated(2000, sharpness=(3.0, 1.0))
    fitted, plain = temperature_variants(dataset, fit=True)
    assert plain is dataset
    assert fitted.temperatures == fit_temperatures(dataset) != dataset.temperatures
    assert temperature_variants(dataset, fit=False) == (dataset,)
    assert len(temperature_variants(fitted, fit=True)) == 1
