"""EENet's scoring function: linear in what an exit says, fitted to whether its answer is right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from edgeexit.errors import FittingError
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.policies.readout import ENTROPY, P1

STATISTICS = 2
"""The highest probability and the certainty stand behind the probabilities of the classes."""

_CERTAIN = 0.05
"""How near to 0 or 1 a score may come before the logarithm goes on as a straight line."""
_ITERATIONS = 200


class Examples(NamedTuple):
    """What the functions of an EENet are learned from."""

    inputs: Values
    """[N, K, C + 2] probabilities, the highest of them, and the certainty 1 + sum(p log p) / log C."""
    correct: Values
    """[N, K] whether an exit is right; to segment, the share of pixels on which it is."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.inputs.shape[2]) - STATISTICS


def examples_of(dataset: ReadoutDataset) -> Examples:
    """Return what can be learned from evidence. Raises FittingError where it has no probabilities of 2 classes."""
    readouts, probabilities = dataset.readouts, dataset.probabilities
    samples, exits, classes = probabilities.shape
    if classes < 2:  # noqa: PLR2004 - one class leaves nothing to decide
        raise FittingError(f"policy 'eenet' needs at least 2 classes, and the readouts hold {classes}")
    inputs = np.empty((samples, exits, classes + STATISTICS))
    inputs[..., :classes] = probabilities
    inputs[..., classes] = readouts[..., P1]
    inputs[..., classes + 1] = 1 - readouts[..., ENTROPY] / np.log(classes)
    return Examples(inputs, 1 - dataset.losses(dataset.exit_predictions))


def identity(exits: int, classes: int) -> tuple[Values, ...]:
    """Return the weights [K-1][C + 2 + k] that EENet starts at: the score is the highest probability."""
    start = [np.zeros(classes + STATISTICS + k) for k in range(exits - 1)]
    for weights in start:
        weights[classes] = 1
    return tuple(start)


def scores_of(inputs: Values, weights: Sequence[Values]) -> Values:
    """Return q [N, K]: linear at every early exit, past scores behind its inputs; the final exit's is max p."""
    samples, exits, width = inputs.shape
    scores = np.empty((samples, exits))
    scores[:, -1] = inputs[:, -1, width - STATISTICS]
    for k, own in enumerate(weights):
        scores[:, k] = inputs[:, k] @ own[:width] + scores[:, :k] @ own[width:]
    return scores


def fit_scoring(
    examples: Examples, emphasis: Values, anchors: Sequence[Values], pull: float, start: Sequence[Values]
) -> tuple[Values, ...]:
    """Return the weights [K-1][C + 2 + k] of least loss at every exit, one exit after another.

    The loss of exit k is sum_n w_nk BCE(q_nk, correct_nk) + pull / 2 |weights - anchor|^2, with `emphasis` w [N, K]
    adding up to 1 over the samples. Past scores are inputs like others: no gradient goes through them, so every exit is
    a convex problem of its own. Source: EENet (arXiv:2301.07099).
    """
    inputs, correct = examples
    samples, exits, _ = inputs.shape
    scores = np.empty((samples, exits - 1))
    fitted = []
    for k in range(exits - 1):
        seen = np.hstack([inputs[:, k], scores[:, :k]])
        weights = _fit_exit(start[k], seen, correct[:, k], emphasis=emphasis[:, k], anchor=anchors[k], pull=pull)
        fitted.append(weights)
        scores[:, k] = seen @ weights
    return tuple(fitted)


def _fit_exit(start: Values, seen: Values, correct: Values, *, emphasis: Values, anchor: Values, pull: float) -> Values:
    def loss(weights: Values) -> tuple[float, Values]:
        return exit_loss(weights, seen, correct, emphasis=emphasis, anchor=anchor, pull=pull)

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x


def exit_loss(
    weights: Values, seen: Values, correct: Values, *, emphasis: Values, anchor: Values, pull: float
) -> tuple[float, Values]:
    """Return the loss of one exit's weights [D] and its gradient [D]; `seen` [N, D] are the exit's inputs."""
    scores, offset = seen @ weights, weights - anchor
    loss, slope = cross_entropy(scores, correct)
    return float(emphasis @ loss + pull / 2 * offset @ offset), (emphasis * slope) @ seen + pull * offset


def cross_entropy(scores: Values, correct: Values) -> tuple[Values, Values]:
    """Return BCE(q, correct) [N] and its derivative by q [N], for any q.

    A linear score leaves (0, 1). Clipping it would take the gradient away just where a score is wrong beyond doubt, so
    the logarithms go on along their tangents: convex still, and one confident mistake weighs no more than 1 / 0.05.
    """
    right, right_slope = _minus_log(scores)
    wrong, wrong_slope = _minus_log(1 - scores)
    return correct * right + (1 - correct) * wrong, correct * right_slope - (1 - correct) * wrong_slope


def _minus_log(values: Values) -> tuple[Values, Values]:
    """Return -log and its derivative, along the tangent below `_CERTAIN`."""
    inside = np.maximum(values, _CERTAIN)
    return (inside - values) / _CERTAIN - np.log(inside), -1 / inside
