"""EENet's scoring function: linear in the output of an exit, fitted to whether its prediction is right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from edgeexit.errors import FittingError
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.policies.readout import ENTROPY, P1

STATISTICS = 2
"""The highest probability and the certainty follow the probabilities of the classes."""

_MIN_ARGUMENT = 0.05
"""Argument below which the logarithm continues along its tangent."""
_ITERATIONS = 200


class Examples(NamedTuple):
    """The training data of EENet's two functions."""

    inputs: Values
    """[N, K, C + 2] probabilities, the highest of them, and the certainty 1 + sum(p log p) / log C."""
    correct: Values
    """[N, K] 1 where the prediction of an exit is right, else 0; for segmentation, the fraction of right pixels."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.inputs.shape[2]) - STATISTICS


def examples_of(dataset: ReadoutDataset) -> Examples:
    """Return the training data in a dataset.

    Raises FittingError for readouts without probabilities, or with those of fewer than 2 classes.
    """
    readouts, probabilities = dataset.readouts, dataset.probabilities
    samples, exits, classes = probabilities.shape
    if classes < 2:  # noqa: PLR2004 - one class needs no decision
        raise FittingError(f"policy 'eenet' needs at least 2 classes, and the readouts hold {classes}")
    inputs = np.empty((samples, exits, classes + STATISTICS))
    inputs[..., :classes] = probabilities
    inputs[..., classes] = readouts[..., P1]
    inputs[..., classes + 1] = 1 - readouts[..., ENTROPY] / np.log(classes)
    return Examples(inputs, 1 - dataset.losses(dataset.exit_predictions))


def initial_weights(exits: int, classes: int) -> tuple[Values, ...]:
    """Return the initial weights [K-1][C + 2 + k]: the score is the highest probability."""
    start = [np.zeros(classes + STATISTICS + k) for k in range(exits - 1)]
    for weights in start:
        weights[classes] = 1
    return tuple(start)


def scores_of(inputs: Values, weights: Sequence[Values]) -> Values:
    """Return q [N, K]: linear in inputs and earlier scores at each early exit; max p at the final exit."""
    samples, exits, width = inputs.shape
    scores = np.empty((samples, exits))
    scores[:, -1] = inputs[:, -1, width - STATISTICS]
    for k, exit_weights in enumerate(weights):
        scores[:, k] = inputs[:, k] @ exit_weights[:width] + scores[:, :k] @ exit_weights[width:]
    return scores


def fit_scoring(
    examples: Examples, sample_weights: Values, anchors: Sequence[Values], penalty: float, start: Sequence[Values]
) -> tuple[Values, ...]:
    """Return the weights [K-1][C + 2 + k] of lowest loss, fitted exit by exit.

    The loss of exit k is sum_n w_nk BCE(q_nk, correct_nk) + penalty / 2 |weights - anchor|^2, where `sample_weights`
    w [N, K] sum to 1 over the samples. Earlier scores are plain inputs without a gradient, so each exit is a separate
    convex problem. Source: EENet (arXiv:2301.07099).
    """
    inputs, correct = examples
    samples, exits, _ = inputs.shape
    scores = np.empty((samples, exits - 1))
    fitted = []
    for k in range(exits - 1):
        features = np.hstack([inputs[:, k], scores[:, :k]])
        weights = _fit_exit(
            start[k], features, correct[:, k], sample_weights=sample_weights[:, k], anchor=anchors[k], penalty=penalty
        )
        fitted.append(weights)
        scores[:, k] = features @ weights
    return tuple(fitted)


def _fit_exit(
    start: Values, features: Values, correct: Values, *, sample_weights: Values, anchor: Values, penalty: float
) -> Values:
    def loss(weights: Values) -> tuple[float, Values]:
        return exit_loss(weights, features, correct, sample_weights=sample_weights, anchor=anchor, penalty=penalty)

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x


def exit_loss(
    weights: Values, features: Values, correct: Values, *, sample_weights: Values, anchor: Values, penalty: float
) -> tuple[float, Values]:
    """Return the loss of one exit's weights [D] and its gradient [D]; `features` [N, D] are its inputs."""
    scores, offset = features @ weights, weights - anchor
    loss, slope = cross_entropy(scores, correct)
    return float(sample_weights @ loss + penalty / 2 * offset @ offset), (
        sample_weights * slope
    ) @ features + penalty * offset


def cross_entropy(scores: Values, correct: Values) -> tuple[Values, Values]:
    """Return BCE(q, correct) [N] and its derivative by q [N], for any q.

    A linear score can be outside (0, 1). Clipping would remove the gradient where a score is most wrong, so the
    logarithms continue along their tangents. The loss stays convex, and its slope is at most 1 / 0.05.
    """
    right, right_slope = _minus_log(scores)
    wrong, wrong_slope = _minus_log(1 - scores)
    return correct * right + (1 - correct) * wrong, correct * right_slope - (1 - correct) * wrong_slope


def _minus_log(values: Values) -> tuple[Values, Values]:
    """Return -log(values) and its derivative; below `_MIN_ARGUMENT` the function continues along its tangent."""
    inside = np.maximum(values, _MIN_ARGUMENT)
    return (inside - values) / _MIN_ARGUMENT - np.log(inside), -1 / inside
