"""One softmax temperature an exit, so that probabilities of different exits can be compared."""

from math import exp, log
from typing import cast

import numpy as np
from scipy.optimize import minimize_scalar

from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.policies.readout import Array

_LOW, _HIGH = 1 / 20, 20.0
_DECIMALS = 3
"""Temperatures are written into documents; finer ones change no decision that could be told from noise."""
_CLEAR = 2.0
"""Standard errors by which the mean gain of a temperature must be above 0."""


def fit_temperatures(dataset: ReadoutDataset) -> tuple[float, ...]:
    """Return [K] temperatures of least negative log-likelihood of `dataset.truth`, each exit by itself.

    The evidence's own temperature stays at an exit where the gain is not clear (its mean over the samples is not above
    two standard errors), where there is no least one between 1/20 and 20 (an exit that is never wrong would be made
    ever surer), and at the final exit without labels, which cannot judge itself. All stay where nothing can be fitted:
    readouts without probabilities, averages over the pixels of maps, a single class.

    Source: temperature scaling, "On Calibration of Modern Neural Networks" (Guo et al., ICML 2017, section 4.2).
    """
    truth = dataset.truth
    if dataset.classes is None or dataset.maps is not None or not (truth != truth[0]).any():
        return dataset.temperatures
    judged = dataset.exits if dataset.has_labels else dataset.exits - 1
    fitted = [_fitted(dataset.probabilities[:, k], truth, dataset.temperatures[k]) for k in range(judged)]
    return (*fitted, *dataset.temperatures[judged:])


def temperature_variants(dataset: ReadoutDataset, *, fit: bool) -> tuple[ReadoutDataset, ...]:
    """Return the dataset under fitted temperatures (if `fit`), and unchanged; one dataset if both are equal."""
    fitted = fit_temperatures(dataset) if fit else dataset.temperatures
    return (dataset,) if fitted == dataset.temperatures else (dataset.at(fitted), dataset)


def _fitted(probabilities: Array, truth: Indices, present: float) -> float:
    """Return the temperature of one exit, given its probabilities [N, C] under the present one."""
    logits = np.float32(present) * log_probabilities(probabilities)
    logits -= logits.max(axis=1, keepdims=True)
    of_truth = logits[np.arange(len(truth)), truth].astype(np.float64)
    scaled = np.empty_like(logits)

    def losses(temperature: float) -> Values:
        np.exp(np.multiply(logits, np.float32(1 / temperature), out=scaled), out=scaled)
        return cast("Values", np.log(scaled.sum(axis=1, dtype=np.float64)) - of_truth / temperature)

    found = minimize_scalar(
        lambda log_t: float(losses(exp(log_t)).mean()),
        bounds=(log(_LOW), log(_HIGH)),
        method="bounded",
        options={"xatol": 2e-4},
    )
    best = round(exp(found.x), _DECIMALS)
    if not 1.01 * _LOW < best < _HIGH / 1.01:
        return present
    gain = losses(present) - losses(best)
    clear = gain.mean() > _CLEAR * gain.std() / np.sqrt(len(gain))
    return best if clear else present


def log_probabilities(probabilities: Array) -> Array:
    """Return natural logarithms of float32 probabilities of any shape; one that fell to 0 counts as the least above."""
    return cast("Array", np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
