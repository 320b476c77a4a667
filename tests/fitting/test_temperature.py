"""Temperatures: calibrated ones, and the dataset's where the gain is not significant."""

import msgspec
import numpy as np
import pytest

from edgeexit.fitting import MapLosses, ReadoutDataset
from edgeexit.fitting import temperature as temperature_module
from edgeexit.fitting.temperature import base_temperatures, fit_temperatures, temperature_variants
from edgeexit.policies.readout import P1
from tests.fitting.populations import population
from tests.fitting.reference_readouts import read_out


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


@pytest.mark.parametrize("why", ["no logits", "maps"])
def test_the_temperatures_stay_if_none_can_be_fitted(why):
    dataset = msgspec.structs.replace(population(200, seed=1, sharpness=5.0), temperatures=(1.0, 1.1, 1.2, 1.3))
    fractions = np.zeros((200, 4), dtype=np.float32)
    changed = {
        "no logits": {"logits": None},
        "maps": {"labels": None, "maps": MapLosses(disagreement=fractions)},
    }[why]
    assert fit_temperatures(msgspec.structs.replace(dataset, **changed)) == (1.0, 1.1, 1.2, 1.3)


def test_there_are_two_variants_if_the_temperatures_differ_and_else_one():
    dataset = calibrated(2000, sharpness=(3.0, 1.0))
    fitted, plain = temperature_variants(dataset, fit=True)
    assert plain is dataset
    assert fitted.temperatures == fit_temperatures(dataset) != dataset.temperatures
    assert temperature_variants(dataset, fit=False) == (dataset,)
    assert temperature_variants(fitted, fit=False) == (fitted,)


def test_labels_of_one_class_give_base_temperatures():
    dataset = msgspec.structs.replace(population(200, seed=1), labels=np.zeros(200, dtype=np.int64))
    assert fit_temperatures(dataset) == base_temperatures(dataset) == (1.0,) * 4


@pytest.mark.parametrize("power", [-6, -3, -1, 1, 2, 3, 6])
def test_logits_times_a_power_of_ten_give_temperatures_times_it(power):
    factor = 10.0**power
    plain, scaled = calibrated(3000, sharpness=(1.4, 0.8)), calibrated(3000, sharpness=(1.4 * factor, 0.8 * factor))
    assert base_temperatures(scaled) == pytest.approx(factor * np.array(base_temperatures(plain)), rel=1e-12)
    assert fit_temperatures(scaled) == pytest.approx(factor * np.array(fit_temperatures(plain)), rel=1e-12)
    assert fit_temperatures(plain) != base_temperatures(plain)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 3.0, 70.0])
def test_a_temperature_far_from_the_base_temperature_is_found(temperature):
    """An exit whose probabilities are nearly equal at its base temperature, and one that is far too confident there."""
    dataset = calibrated(20_000, sharpness=(temperature, 1.0))
    assert fit_temperatures(dataset)[0] == pytest.approx(temperature, rel=0.05)


def test_an_exit_without_information_has_nearly_equal_probabilities():
    random = np.random.default_rng(0)
    dataset = ReadoutDataset.from_logits(
        random.normal(size=(2000, 2, 5)), costs=(1.0, 2.0), labels=random.integers(0, 5, 2000)
    )
    assert dataset.at(fit_temperatures(dataset)).readouts[:, :, P1].max() < 0.3


def test_temperatures_have_four_significant_digits():
    for temperature in fit_temperatures(calibrated(3000, sharpness=(37.123456, 0.01234567))):
        assert float(f"{temperature:.4g}") == temperature


def test_temperatures_are_fitted_once_per_dataset(monkeypatch):
    dataset = calibrated(2000, sharpness=(3.0, 1.0))
    fitted = fit_temperatures(dataset)
    monkeypatch.setattr(temperature_module, "_ExitFit", None)
    assert fit_temperatures(dataset) == fitted
