"""Fits one softmax temperature per exit, so that probabilities of different exits are comparable."""

from math import exp, log
from typing import cast

import numpy as np
from scipy.optimize import minimize_scalar

from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.policies.readout import Array

_LOW, _HIGH = 1 / 20, 20.0
_DECIMALS = 3
"""Decimals of temperatures in documents; further decimals change fewer decisions than noise does."""
_MIN_GAIN = 2.0
"""Standard errors by which the mean gain of a temperature must exceed 0."""


def fit_temperatures(dataset: ReadoutDataset) -> tuple[float, ...]:
    """Return the temperatures [K] of minimum negative log-likelihood of `dataset.truth`, fitted exit by exit.

    An exit keeps the temperature of the dataset if the gain is not significant (its mean over the samples is at most
    two standard errors), or if there is no minimum between 1/20 and 20 (e.g. for an exit that is never wrong). Without
    labels, the final exit keeps its temperature, because its own predictions are the truth. All exits keep theirs for
    readouts without probabilities, for segmentation, and if the truth is a single class.

    Source: temperature scaling, "On Calibration of Modern Neural Networks" (Guo et al., ICML 2017, section 4.2).
    """
    truth = dataset.truth
    if dataset.classes is None or dataset.maps is not None or not (truth != truth[0]).any():
        return dataset.temperatures
    fittable = dataset.exits if dataset.has_labels else dataset.exits - 1
    fitted = [_fitted(dataset.probabilities[:, k], truth, dataset.temperatures[k]) for k in range(fittable)]
    return (*fitted, *dataset.temperatures[fittable:])


def temperature_variants(dataset: ReadoutDataset, *, fit: bool) -> tuple[ReadoutDataset, ...]:
    """Return the dataset under fitted temperatures (if `fit`) and the unchanged dataset; only one if both are equal."""
    fitted = fit_temperatures(dataset) if fit else dataset.temperatures
    return (dataset,) if fitted == dataset.temperatures else (dataset.at(fitted), dataset)


def _fitted(probabilities: Array, truth: Indices, current: float) -> float:
    """Return the temperature of one exit, given its probabilities [N, C] under the current one."""
    logits = np.float32(current) * log_probabilities(probabilities)
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
        return current
    gain = losses(current) - losses(best)
    significant = gain.mean() > _MIN_GAIN * gain.std() / np.sqrt(len(gain))
    return best if significant else current


def log_probabilities(probabilities: Array) -> Array:
    """Return the natural logarithms of float32 probabilities of any shape; 0 counts as the smallest normal float32."""
    return cast("Array", np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
