"""Softmax temperatures of the exits: the base temperature, which suits the scale of the logits, and fitted ones."""

import weakref
from math import exp, floor, log, log10
from typing import Final

import numpy as np
from scipy.optimize import brentq

from edgeexit.fitting.exit_logits import BLOCK, ExitLogits
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values

_MIN_USUAL_SPREAD: Final = 0.8
"""Lowest standard deviation of the logits of a sample with a base temperature of 1; the highest is 10 times this."""
_SPREAD_SAMPLES: Final = 2000
_STEP: Final = 4.0
"""Factor between the temperatures that are tried to find two around the minimum."""
_STEPS: Final = 4
_REACH: Final = _STEP**_STEPS
"""Highest ratio between a fitted temperature and the base temperature, in either direction."""
_PRECISION: Final = 1e-6
_DIGITS: Final = 4
"""Significant digits of temperatures in documents; further digits change fewer decisions than noise does."""
_MIN_GAIN: Final = 2.0
"""Standard errors by which the mean gain of a temperature must exceed 0."""

_base: Final[weakref.WeakKeyDictionary[ReadoutDataset, tuple[float, ...]]] = weakref.WeakKeyDictionary()
_fitted: Final[weakref.WeakKeyDictionary[ReadoutDataset, tuple[float, ...]]] = weakref.WeakKeyDictionary()
"""The temperatures of a dataset, which every kind of policy asks for again."""


def base_temperatures(dataset: ReadoutDataset) -> tuple[float, ...]:
    """Return the temperatures [K] at which probabilities neither underflow nor are all equal.

    It is 1 for the logits of usual networks: those with a standard deviation over the classes between 0.8 and 8, in
    the median over the samples. Otherwise it is the power of ten that brings the logits into this range, so logits that
    are multiplied by a power of ten have the same probabilities. All exits keep their temperatures for datasets without
    logits.
    """
    if dataset.logits is None or dataset.maps is not None:
        return dataset.temperatures
    if dataset not in _base:
        _base[dataset] = tuple(_power_of_ten(spread) for spread in _spreads(dataset, dataset.logits))
    return _base[dataset]


def _spreads(dataset: ReadoutDataset, logits: ExitLogits) -> list[float]:
    """Return the standard deviation over the classes [K], in the median over some of the samples."""
    chosen = np.arange(len(dataset)) if dataset.rows is None else dataset.rows
    chosen = chosen[:: max(len(chosen) // _SPREAD_SAMPLES, 1)]
    spreads = []
    for k in range(dataset.exits):
        parts = [block.std(axis=1, dtype=np.float64) for _, block in logits.blocks(k, chosen)]
        spreads.append(float(np.median(np.concatenate(parts))))
    return spreads


def fit_temperatures(dataset: ReadoutDataset) -> tuple[float, ...]:
    """Return the temperatures [K] of minimum negative log-likelihood of `dataset.truth`, fitted exit by exit.

    An exit has its base temperature if the gain over it is not significant (its mean over the samples is at most
    two standard errors), or if there is no minimum above 1/256 of it (e.g. for an exit that is never wrong). Without
    labels, the final exit has it, because its own predictions are the truth. All exits have it if the truth is a single
    class. The highest temperature is 256 times the base temperature. Datasets without logits keep their temperatures.

    Source: temperature scaling, "On Calibration of Modern Neural Networks" (Guo et al., ICML 2017, section 4.2).
    """
    if dataset not in _fitted:
        base, truth = base_temperatures(dataset), dataset.truth
        if dataset.logits is None or dataset.maps is not None or not (truth != truth[0]).any():
            return base
        fittable = dataset.exits if dataset.has_labels else dataset.exits - 1
        fitted = [_ExitFit(dataset, k).temperature(base[k]) for k in range(fittable)]
        _fitted[dataset] = (*fitted, *base[fittable:])
    return _fitted[dataset]


def temperature_variants(dataset: ReadoutDataset, *, fit: bool) -> tuple[ReadoutDataset, ...]:
    """Return the dataset under fitted temperatures and under base temperatures; only one if both are equal.

    If not `fit`, return the dataset as it is.
    """
    if not fit:
        return (dataset,)
    fitted, base = fit_temperatures(dataset), base_temperatures(dataset)
    return tuple(dataset.at(temperatures) for temperatures in dict.fromkeys((fitted, base)))


def base_variant(dataset: ReadoutDataset, *, fit: bool) -> ReadoutDataset:
    """Return the last of `temperature_variants`: no temperature is fitted to the labels."""
    return dataset.at(base_temperatures(dataset)) if fit else dataset


class _ExitFit:
    """The likelihood of the true classes at one exit, as a function of the temperature."""

    def __init__(self, dataset: ReadoutDataset, exit_index: int) -> None:
        assert dataset.logits is not None  # noqa: S101 - checked by the caller
        samples, classes = len(dataset), dataset.logits.classes
        self._logits = np.empty((samples, classes), dtype=np.float32)  # the highest logit of a sample is 0
        for part, logits in dataset.logits.blocks(exit_index, dataset.rows):
            np.subtract(logits, logits.max(axis=1, keepdims=True), out=self._logits[part])
        self._of_truth: Values = self._logits[np.arange(samples), dataset.truth].astype(np.float64)
        size = max(BLOCK // classes, 1)
        self._parts = [slice(start, start + size) for start in range(0, samples, size)]

    def temperature(self, base: float) -> float:
        """Return the temperature of the lowest loss, or `base`."""
        found = self._above(base) if self._slope(log(base)) >= 0 else self._below(base)
        if found is None:
            return base
        best = float(f"{found:.{_DIGITS}g}")
        gain = self._losses(base) - self._losses(best)
        significant = gain.mean() > _MIN_GAIN * gain.std() / np.sqrt(len(gain))
        return best if significant else base

    def _above(self, base: float) -> float:
        """Return the minimum at a temperature of at least `base`, and at most `_REACH` times it.

        The higher end is for an exit whose logits say nothing of the true class: it has nearly equal probabilities.
        """
        for step in range(_STEPS):
            low, high = (log(base) + log(_STEP) * end for end in (step, step + 1))
            if self._slope(high) < 0:
                return self._minimum(low, high)
        return base * _REACH

    def _below(self, base: float) -> float | None:
        """Return the minimum at a temperature below `base`; None if the loss falls towards 0, as if never wrong."""
        for step in range(_STEPS):
            low, high = (log(base) - log(_STEP) * end for end in (step + 1, step))
            if self._slope(low) > 0:
                return self._minimum(low, high)
        return None

    def _minimum(self, low: float, high: float) -> float:
        """Return the temperature between two logarithms of temperatures at which the slope is 0."""
        fit = weakref.proxy(self)

        def slope(log_temperature: float) -> float:  # brentq keeps it in a reference cycle: it must not keep the logits
            return float(fit._slope(log_temperature))  # noqa: SLF001 - a proxy of self

        return exp(brentq(slope, low, high, xtol=_PRECISION))

    def _losses(self, temperature: float) -> Values:
        """Return the negative log-likelihood [N]."""
        losses = np.empty(len(self._of_truth))
        for part in self._parts:
            scaled = self._logits[part] * np.float32(1 / temperature)
            losses[part] = np.log(np.exp(scaled, out=scaled).sum(axis=1, dtype=np.float64))
        return losses - self._of_truth / temperature

    def _slope(self, log_temperature: float) -> float:
        """Return the derivative of the mean loss by 1 / T: the mean of E[logit] - logit of the true class."""
        factor = np.float32(exp(-log_temperature))
        expected = np.empty(len(self._of_truth))
        for part in self._parts:
            logits = self._logits[part]
            scaled = logits * factor
            np.exp(scaled, out=scaled)
            expected[part] = np.einsum("nc,nc->n", scaled, logits) / scaled.sum(axis=1)
        return float((expected - self._of_truth).mean())


def _power_of_ten(spread: float) -> float:
    if not (np.isfinite(spread) and spread > 0):
        return 1.0
    return float(f"1e{floor(log10(spread / _MIN_USUAL_SPREAD))}")
