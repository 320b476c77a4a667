"""What answering at an exit is expected to lose, given the sample's scores: losses without their luck.

A loss of 0 or 1 says little of the next sample that looks the same. Thresholds chosen on its expectation do better on
new samples than those chosen on the losses themselves.
"""

import numpy as np
from scipy.special import expit, ndtri
from scipy.stats import rankdata

from edgeexit.fitting.readout_dataset import Values
from edgeexit.policies.readout import Array

_RIDGE = 1.0
"""Precision of the belief that a coefficient is 0; it counts like a few samples."""
_ROUNDS = 50
_HALVINGS = 30
_CONVERGED = 1e-8
_ROUNDING = 1e-13


def expected_losses(scores: Array, losses: Values) -> Values:
    """Return [N, K] in [0, 1]: logistic regressions of each exit's loss on scores at it and around it.

    The features are normal quantiles of the ranks of a sample's scores, so that any kind's scores will do: at the exit
    itself, also squared, at the ones before and after it, and at the final one. `scores` and `losses` [N, K].
    """
    samples, exits = scores.shape
    normal = ndtri((rankdata(scores, axis=0, nan_policy="omit") - 0.5) / samples)
    normal = np.nan_to_num(normal, nan=float(normal.min(initial=0.0, where=np.isfinite(normal))))
    expected = np.empty((samples, exits))
    for k in range(exits):
        others = sorted({max(k - 1, 0), min(k + 1, exits - 1), exits - 1} - {k})
        features = np.column_stack([np.ones(samples), normal[:, k], normal[:, k] ** 2, normal[:, others]])
        expected[:, k] = _regressed(features, losses[:, k])
    return expected


def _regressed(features: Values, targets: Values) -> Values:
    """Return the logistic regression [N] of targets in [0, 1] on `features` [N, F], the first of them the constant."""
    if targets.min() == targets.max():
        return targets
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[0] = 0.0  # so that the mean stays what it is
    mean = float(targets.mean())
    coefficients = np.zeros(features.shape[1])
    coefficients[0] = np.log(mean / (1 - mean))
    logits = features @ coefficients
    surprise = _surprise(logits, targets, ridge, coefficients)
    for _ in range(_ROUNDS):  # Newton's method; where scores all but tell the losses, full steps would swing for ever
        chances = expit(logits)
        gradient = features.T @ (chances - targets) + ridge * coefficients
        curvature = (features * (chances * (1 - chances) + 1e-9)[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        for _ in range(_HALVINGS):
            tried = coefficients - step
            logits = features @ tried
            after = _surprise(logits, targets, ridge, tried)
            if after <= surprise + _ROUNDING * abs(surprise):
                break
            step /= 2
        coefficients, surprise = tried, after
        if np.abs(step).max() < _CONVERGED:
            break
    return np.asarray(expit(logits), dtype=np.float64)


def _surprise(logits: Values, targets: Values, ridge: Values, coefficients: Values) -> float:
    """Return what a regression minimises: minus the log-likelihood of the targets and of the coefficients."""
    return float(np.logaddexp(0, logits).sum() - targets @ logits + ridge @ coefficients**2 / 2)
