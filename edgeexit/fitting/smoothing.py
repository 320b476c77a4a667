"""Expected losses: a regression of the loss of each exit on the scores of the sample.

The observed loss of a sample, 0 or 1, is a poor estimate for a new sample with the same scores. Thresholds that are
chosen on expected losses do better on new samples than thresholds that are chosen on observed losses.
"""

import numpy as np
from scipy.special import expit, ndtri
from scipy.stats import rankdata

from edgeexit.fitting.readout_dataset import Values
from edgeexit.policies.readout import Array

_RIDGE = 1.0
"""Strength of the L2 penalty on coefficients; its effect is that of a few samples."""
_ROUNDS = 50
_HALVINGS = 30
_CONVERGED = 1e-8
_ROUNDING = 1e-13


def expected_losses(scores: Array, losses: Values) -> Values:
    """Return the expected losses [N, K] in [0, 1]: a logistic regression of the loss of each exit on scores.

    The features are normal quantiles of the ranks of the scores, so they do not depend on the kind of policy. They are
    taken at the exit itself (also squared), at the exits before and after it, and at the final exit. `scores` and
    `losses` [N, K].
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
    """Return the fitted values [N] of a logistic regression of targets in [0, 1] on features [N, F]; feature 0 is 1."""
    if targets.min() == targets.max():
        return targets
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[0] = 0.0  # the fitted values keep the mean of the targets
    mean = float(targets.mean())
    coefficients = np.zeros(features.shape[1])
    coefficients[0] = np.log(mean / (1 - mean))
    logits = features @ coefficients
    objective = _negative_log_posterior(logits, targets, ridge, coefficients)
    for _ in range(_ROUNDS):  # Newton's method; full steps would oscillate if scores nearly separate the losses
        fitted = expit(logits)
        gradient = features.T @ (fitted - targets) + ridge * coefficients
        curvature = (features * (fitted * (1 - fitted) + 1e-9)[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        for _ in range(_HALVINGS):
            tried = coefficients - step
            logits = features @ tried
            after = _negative_log_posterior(logits, targets, ridge, tried)
            if after <= objective + _ROUNDING * abs(objective):
                break
            step /= 2
        coefficients, objective = tried, after
        if np.abs(step).max() < _CONVERGED:
            break
    return np.asarray(expit(logits), dtype=np.float64)


def _negative_log_posterior(logits: Values, targets: Values, ridge: Values, coefficients: Values) -> float:
    """Return the objective of the regression: the negative log-likelihood and the penalty."""
    return float(np.logaddexp(0, logits).sum() - targets @ logits + ridge @ coefficients**2 / 2)
