"""EENet's scoring function: linear in the output of an exit, fitted to whether its prediction is right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from edgeexit.fitting.kinds.eenet.examples import STATISTICS, Examples, ExitInputs
from edgeexit.fitting.readout_dataset import Values

_MIN_ARGUMENT = 0.05
"""Argument below which the logarithm continues along its tangent."""
_ITERATIONS = 200


class Scoring(NamedTuple):
    """A scoring function, and its scores of the samples that it was fitted on."""

    weights: tuple[Values, ...]
    """[K-1][C + 2 + k]."""
    scores: Values
    """q [N, K]: linear in the inputs at each early exit; max p at the final exit."""


def initial_weights(exits: int, classes: int) -> tuple[Values, ...]:
    """Return the initial weights [K-1][C + 2 + k]: the score is the highest probability."""
    start = [np.zeros(classes + STATISTICS + k) for k in range(exits - 1)]
    for weights in start:
        weights[classes] = 1
    return tuple(start)


def fit_scoring(
    examples: Examples, sample_weights: Values, anchors: Sequence[Values], penalty: float, start: Sequence[Values]
) -> Scoring:
    """Return the weights [K-1][C + 2 + k] of lowest loss, fitted exit by exit, and the scores that they give.

    The loss of exit k is sum_n w_nk BCE(q_nk, correct_nk) + penalty / 2 |weights - anchor|^2, where `sample_weights`
    w [N, K] sum to 1 over the samples. Earlier scores are plain inputs without a gradient, so each exit is a separate
    convex problem. Source: EENet (arXiv:2301.07099).
    """
    scores = examples.initial_scores
    fitted = []
    for k, (anchor, first) in enumerate(zip(anchors, start, strict=True)):
        inputs = examples.inputs(k, scores)
        weights = _fit_exit(
            first, inputs, examples.correct[:, k], sample_weights=sample_weights[:, k], anchor=anchor, penalty=penalty
        )
        fitted.append(weights)
        for rows, block in inputs.blocks():
            scores[rows, k] = block @ weights
    return Scoring(tuple(fitted), scores)


def _fit_exit(
    start: Values, inputs: ExitInputs, correct: Values, *, sample_weights: Values, anchor: Values, penalty: float
) -> Values:
    def loss(weights: Values) -> tuple[float, Values]:
        return exit_loss(weights, inputs, correct, sample_weights=sample_weights, anchor=anchor, penalty=penalty)

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x


def exit_loss(
    weights: Values, inputs: ExitInputs, correct: Values, *, sample_weights: Values, anchor: Values, penalty: float
) -> tuple[float, Values]:
    """Return the loss of one exit's weights [D] and its gradient [D], in one pass over the inputs [N, D]."""
    offset = weights - anchor
    value, gradient = float(penalty / 2 * offset @ offset), penalty * offset
    for rows, block in inputs.blocks():
        loss, slope = cross_entropy(block @ weights, correct[rows])
        value += float(sample_weights[rows] @ loss)
        gradient += (sample_weights[rows] * slope) @ block
    return value, gradient


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
