"""EENet's assignment function: which share of a sample belongs to each exit, for an average budget."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from edgeexit.fitting.readout_dataset import Values

_DIVERGENCE_WEIGHT, _COST_WEIGHT = 1e-3, 1e-2
"""Weights of the two losses in the authors' settings."""
_HIDDEN = 0.5
"""Hidden units for each input, in the authors' settings for images."""
_SHARPNESS = 1.0
"""beta in q^beta / sum q^beta."""
_MIN_SCORE = 1e-3
"""Scores are raised to this before they become shares: a linear score may be 0 or below."""
_ROUNDING = 1e-3
"""Part of the budget over which |E[cost] - B| is round: its kink would stop the search."""


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


def stick_breaking(keeps: Values) -> Values:
    """Return P [..., K] for h [..., K-1]: P_k = h_k prod_{j<k} (1 - h_j); the final exit takes the rest."""
    left = np.cumprod(1 - keeps, axis=-1)
    before = np.concatenate([np.ones_like(left[..., :1]), left[..., :-1]], axis=-1)
    return np.concatenate([keeps * before, left[..., -1:]], axis=-1)


def targets_of(scores: Values) -> Values:
    """Return q^beta / sum q^beta [N, K]: exits share a sample as they are likely to be right."""
    raised = np.clip(scores, _MIN_SCORE, 1) ** _SHARPNESS
    return cast("Values", raised / raised.sum(axis=1, keepdims=True))


def start_layers(width: int, exits: int, seed: int) -> tuple[Layers, ...]:
    """Return the MLPs [K-1] that learning starts at, drawn small; exit k has `width` + k inputs."""
    random = np.random.default_rng(seed)
    layers = []
    for k in range(exits - 1):
        inputs = width + k
        hidden = max(1, int(_HIDDEN * inputs))
        draw = random.uniform(-1, 1, (inputs + 2, hidden))
        wide, narrow = inputs**-0.5, hidden**-0.5
        layers.append(Layers(draw[:-2] * wide, draw[-2] * wide, draw[-1] * narrow, np.zeros(1)))
    return tuple(layers)


def fit_assignment(
    inputs: Values, scores: Values, start: Sequence[Layers], *, costs: Values, budget: float, iterations: int
) -> tuple[Layers, ...]:
    """Return the MLPs [K-1] of least loss on inputs [N, K, C + 2], scores q [N, K] and cumulative costs [K].

    Source: EENet (arXiv:2301.07099); weights of the losses and sizes from the authors' code.
    """
    seen = _seen(inputs, scores)
    targets = targets_of(scores)

    def loss(flat: Values) -> tuple[float, Values]:
        value, gradients = assignment_loss(unflatten(flat, start), seen, targets, costs, budget)
        return value, flatten(gradients)

    found = minimize(loss, flatten(start), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return unflatten(found.x, start)


def assigned(inputs: Values, scores: Values, layers: Sequence[Layers]) -> Values:
    """Return P [N, K], the share of each sample at each exit; arguments as in `fit_assignment`."""
    keeps = [
        expit(expit(x @ own.hidden + own.hidden_bias) @ own.output + own.output_bias)
        for x, own in zip(_seen(inputs, scores), layers, strict=True)
    ]
    return stick_breaking(np.stack(keeps, axis=1))


def _seen(inputs: Values, scores: Values) -> list[Values]:
    """Return what each early exit's MLP sees [K-1][N, C + 2 + k]: its inputs, and the scores before it."""
    return [np.hstack([inputs[:, k], scores[:, :k]]) for k in range(inputs.shape[1] - 1)]


def assignment_loss(
    layers: Sequence[Layers], seen: Sequence[Values], targets: Values, costs: Values, budget: float
) -> tuple[float, tuple[Layers, ...]]:
    """Return the loss of the MLPs and its gradient, in their shape.

    The loss is a KL(P || targets) + b |E[cost] - B| / B, with a and b as the authors set them. `seen` [K-1][N, D_k].
    """
    hidden = [expit(x @ own.hidden + own.hidden_bias) for x, own in zip(seen, layers, strict=True)]
    logits = np.stack([z @ own.output + own.output_bias for z, own in zip(hidden, layers, strict=True)], axis=1)
    keeps = expit(logits)
    logs = np.zeros_like(targets)  # log P: sums of log h and log (1 - h) never meet log 0
    logs[:, :-1] -= np.logaddexp(0, -logits)
    logs[:, 1:] -= np.cumsum(np.logaddexp(0, logits), axis=1)
    fractions = np.exp(logs)
    samples = len(fractions)

    surprise = logs - np.log(targets)
    overrun = float((fractions @ costs).mean()) / budget - 1
    size = np.hypot(overrun, _ROUNDING)
    loss = _DIVERGENCE_WEIGHT * float((fractions * surprise).sum()) / samples + _COST_WEIGHT * float(size - _ROUNDING)

    by_share = _DIVERGENCE_WEIGHT * (surprise + 1) + _COST_WEIGHT * overrun / size * costs / budget
    flow = fractions * by_share / samples
    later = np.cumsum(flow[:, ::-1], axis=1)[:, ::-1]
    by_logit = flow[:, :-1] * (1 - keeps) - keeps * later[:, 1:]
    gradients = []
    for k, own in enumerate(layers):
        slope, z = by_logit[:, k], hidden[k]
        by_hidden = np.outer(slope, own.output) * z * (1 - z)
        gradients.append(Layers(seen[k].T @ by_hidden, by_hidden.sum(axis=0), slope @ z, slope.sum(keepdims=True)))
    return loss, tuple(gradients)


def flatten(layers: Sequence[Layers]) -> Values:
    """Return all numbers of the MLPs in a row."""
    return np.concatenate([part.ravel() for own in layers for part in own])


def unflatten(flat: Values, shapes: Sequence[Layers]) -> tuple[Layers, ...]:
    """Return the MLPs of a row of numbers, shaped as `shapes`."""
    parts = [part for own in shapes for part in own]
    pieces = np.split(flat, np.cumsum([part.size for part in parts])[:-1])
    shaped = [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return tuple(Layers(*shaped[i : i + 4]) for i in range(0, len(shaped), 4))
