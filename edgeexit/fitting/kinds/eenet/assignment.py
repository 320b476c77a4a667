"""EENet's assignment function: the fraction of a sample that is assigned to each exit, for a mean cost."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from edgeexit.fitting.kinds.eenet.examples import STATISTICS, Examples
from edgeexit.fitting.readout_dataset import Values

_DIVERGENCE_WEIGHT, _COST_WEIGHT = 1e-3, 1e-2
"""Weights of the two losses in the authors' settings."""
_HIDDEN = 0.5
"""Hidden units per input, in the authors' settings for images."""
_MAX_HIDDEN_WEIGHTS, _MIN_HIDDEN = 2**14, 4
"""Limits that the authors do not have: weights of the hidden units of one exit, and units that it has despite them."""
_SHARPNESS = 1.0
"""beta in q^beta / sum q^beta."""
_MIN_SCORE = 1e-3
"""Lower bound of scores before they become fractions: a linear score can be 0 or negative."""
_ROUNDING = 1e-3
"""Fraction of the budget over which |E[cost] - B| is smoothed, because the optimiser would stop at its kink."""


class Layers(NamedTuple):
    """The sigmoid MLP of one exit: h = sigmoid(sigmoid(x W + b) v + c)."""

    hidden: Values
    """W [D, H]."""
    hidden_bias: Values
    """b [H]."""
    output: Values
    """v [H]."""
    output_bias: Values
    """c [1]."""


def stick_breaking(gates: Values) -> Values:
    """Return P [..., K] for gates h [..., K-1]: P_k = h_k prod_{j<k} (1 - h_j); the final exit gets the rest."""
    left = np.cumprod(1 - gates, axis=-1)
    before = np.concatenate([np.ones_like(left[..., :1]), left[..., :-1]], axis=-1)
    return np.concatenate([gates * before, left[..., -1:]], axis=-1)


def targets_of(scores: Values) -> Values:
    """Return q^beta / sum q^beta [N, K]: a sample is split between exits in proportion to their scores."""
    raised = np.clip(scores, _MIN_SCORE, 1) ** _SHARPNESS
    return cast("Values", raised / raised.sum(axis=1, keepdims=True))


def hidden_units(inputs: int) -> int:
    """Return the number of hidden units for this number of inputs.

    It is half of the inputs, as in the authors' code, while that gives at most 2**14 weights: for up to about 180
    classes. Otherwise it is what 2**14 weights permit, and at least 4, so that memory and time grow no faster than the
    number of classes.
    """
    permitted = max(_MAX_HIDDEN_WEIGHTS // inputs, _MIN_HIDDEN)
    return max(min(int(_HIDDEN * inputs), permitted), 1)


def start_layers(classes: int, exits: int, seed: int) -> tuple[Layers, ...]:
    """Return the initial MLPs [K-1], with small random weights; exit k has C + 2 + k inputs."""
    random = np.random.default_rng(seed)
    layers = []
    for k in range(exits - 1):
        inputs = classes + STATISTICS + k
        hidden = hidden_units(inputs)
        draw = random.uniform(-1, 1, (inputs + 2, hidden))
        wide, narrow = inputs**-0.5, hidden**-0.5
        layers.append(Layers(draw[:-2] * wide, draw[-2] * wide, draw[-1] * narrow, np.zeros(1)))
    return tuple(layers)


def fit_assignment(
    examples: Examples, scores: Values, start: Sequence[Layers], *, costs: Values, budget: float, iterations: int
) -> tuple[Layers, ...]:
    """Return the MLPs [K-1] of lowest loss on examples with scores q [N, K], for cumulative costs [K].

    The inputs of all early exits are in memory at once: [K-1][N, C + 2 + k] float64.

    Source: EENet (arXiv:2301.07099); weights of the losses and sizes from the authors' code, but for `hidden_units`.
    """
    features = [examples.inputs(k, scores).matrix() for k in range(len(start))]
    targets = targets_of(scores)

    def loss(flat: Values) -> tuple[float, Values]:
        value, gradients = assignment_loss(unflatten(flat, start), features, targets, costs, budget)
        return value, flatten(gradients)

    found = minimize(loss, flatten(start), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return unflatten(found.x, start)


def assigned(examples: Examples, scores: Values, layers: Sequence[Layers]) -> Values:
    """Return P [N, K], the fraction of each sample at each exit; arguments as in `fit_assignment`."""
    gates = np.empty((len(scores), len(layers)))
    for k, mlp in enumerate(layers):
        for rows, block in examples.inputs(k, scores).blocks():
            gates[rows, k] = expit(expit(block @ mlp.hidden + mlp.hidden_bias) @ mlp.output + mlp.output_bias)
    return stick_breaking(gates)


def assignment_loss(
    layers: Sequence[Layers], features: Sequence[Values], targets: Values, costs: Values, budget: float
) -> tuple[float, tuple[Layers, ...]]:
    """Return the loss of the MLPs and its gradient, which has their shape.

    The loss is a KL(P || targets) + b |E[cost] - B| / B, with a and b in `_DIVERGENCE_WEIGHT` and `_COST_WEIGHT`.
    `features` [K-1][N, D_k].
    """
    hidden = [expit(x @ mlp.hidden + mlp.hidden_bias) for x, mlp in zip(features, layers, strict=True)]
    logits = np.stack([z @ mlp.output + mlp.output_bias for z, mlp in zip(hidden, layers, strict=True)], axis=1)
    gates = expit(logits)
    logs = np.zeros_like(targets)  # log P: sums of log h and log (1 - h) avoid log 0
    logs[:, :-1] -= np.logaddexp(0, -logits)
    logs[:, 1:] -= np.cumsum(np.logaddexp(0, logits), axis=1)
    fractions = np.exp(logs)
    samples = len(fractions)

    divergence = logs - np.log(targets)
    overrun = float((fractions @ costs).mean()) / budget - 1
    size = np.hypot(overrun, _ROUNDING)
    loss = _DIVERGENCE_WEIGHT * float((fractions * divergence).sum()) / samples + _COST_WEIGHT * float(size - _ROUNDING)

    by_fraction = _DIVERGENCE_WEIGHT * (divergence + 1) + _COST_WEIGHT * overrun / size * costs / budget
    flow = fractions * by_fraction / samples
    later = np.cumsum(flow[:, ::-1], axis=1)[:, ::-1]
    by_logit = flow[:, :-1] * (1 - gates) - gates * later[:, 1:]
    gradients = []
    for k, mlp in enumerate(layers):
        slope, z = by_logit[:, k], hidden[k]
        by_hidden = np.outer(slope, mlp.output) * z * (1 - z)
        gradients.append(Layers(features[k].T @ by_hidden, by_hidden.sum(axis=0), slope @ z, slope.sum(keepdims=True)))
    return loss, tuple(gradients)


def flatten(layers: Sequence[Layers]) -> Values:
    """Return all parameters of the MLPs as one vector."""
    return np.concatenate([part.ravel() for mlp in layers for part in mlp])


def unflatten(flat: Values, shapes: Sequence[Layers]) -> tuple[Layers, ...]:
    """Return the inverse of `flatten`: MLPs with the shapes of `shapes` and the parameters in `flat`."""
    parts = [part for mlp in shapes for part in mlp]
    pieces = np.split(flat, np.cumsum([part.size for part in parts])[:-1])
    shaped = [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return tuple(Layers(*shaped[i : i + 4]) for i in range(0, len(shaped), 4))
