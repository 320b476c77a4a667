"""Whether a policy can have decided as an audit claims: exits and predictions, recomputed from the readouts.

An agent decides on the readouts of the inference, and an audit carries those of another run to full depth, in another
batch. There, a runtime may select other kernels, which add in another order, and a dynamic quantisation has another
scale. So the two are equal only up to rounding. A decision is refuted if no logits within `LOGIT_ERROR` of the audited
ones lead to it. If each logit divided by T moves by at most e, then the odds of each probability, and so those of p1
and p2, change at most by a factor of exp(2 e), and so does the entropy H, because
|dH| <= e sum of p |ln p + H| <= 2 e H.
"""

from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.policies import Policy, exits_of, simulate
from edgeexit.policies.pcee import Pcee
from edgeexit.policies.readout import ENTROPY, P1, P2, TOP1, Array, as_float32

LOGIT_ERROR: Final = 0.25
"""The highest error of a logit. int8 has the largest ones: a few percent of a logit."""
_FRACTIONS: Final = (1.0, 0.3, 0.03, 1e-4)
"""Of the error: a score may be highest between its ends."""
_ROUNDING: Final = 1e-6
_MAX_EXPONENT: Final = 50.0
SCORE_ERROR: Final = 0.1
"""The highest error of a score that an audit contains; if scores can be above 1, a fraction of the highest one."""

_Indices = npt.NDArray[np.int64]


def decided(policy: Policy, readouts: Array, exits: _Indices, predictions: _Indices) -> npt.NDArray[np.bool_]:
    """Return True [n] where the policy decides exactly so on these readouts.

    Args:
        policy: must not read the probabilities of all classes, which audits do not contain.
        readouts: [n, K, 4] readouts at the temperatures of the policy.
        exits: [n] exit of each sample, below K.
        predictions: [n] class that was returned for each sample.

    """
    scores, predicted = simulate(policy, readouts)
    rows = np.arange(len(readouts))
    same = predicted[rows, exits] == predictions
    same |= exits == policy.exits - 1  # an audit has no other prediction at the final exit
    return np.asarray((exits_of(scores, policy.thresholds) == exits) & same)


def are_possible(policy: Policy, readouts: Array, exits: _Indices, predictions: _Indices) -> npt.NDArray[np.bool_]:
    """Return True [n] where logits within the error lead to the decision; arguments as in `decided`."""
    samples, early = len(readouts), policy.exits - 1
    error = np.minimum(2 * LOGIT_ERROR / np.asarray(policy.temperatures), _MAX_EXPONENT)
    reached: npt.NDArray[np.bool_] = np.asarray(np.arange(policy.exits) <= exits[:, None])
    near: npt.NDArray[np.bool_] = readouts[:, :, P1] <= readouts[:, :, P2] * np.exp(error) + _ROUNDING
    is_tied: npt.NDArray[np.bool_] = np.asarray((near & reached).any(axis=1))
    variants = _moved(readouts, error)
    lowest, highest = _span(policy, variants)
    if is_tied.any():  # each of two classes may have been the first one: scores are between those for any classes
        tied = variants[:, is_tied]
        for classes in (np.zeros(policy.exits), np.arange(policy.exits)):
            tied[:, :, :, TOP1] = classes
            low, high = _span(policy, tied)
            lowest[is_tied] = np.minimum(lowest[is_tied], low)
            highest[is_tied] = np.maximum(highest[is_tied], high)
    limits = as_float32([np.inf if t is None else t for t in policy.thresholds])
    continued = (lowest[:, :early] < limits) | ~reached[:, 1:]
    exited = (highest[:, :early] >= limits) | ~(exits[:, None] == np.arange(early))
    predicted = simulate(policy, readouts).predictions[np.arange(samples), exits] == predictions
    return np.asarray(continued.all(axis=1) & exited.all(axis=1) & (predicted | is_tied | (exits == early)))


def are_possible_scores(policy: Policy, scores: Array, exits: _Indices) -> npt.NDArray[np.bool_]:
    """Return True [n] where scores within the error lead to the exits.

    Args:
        policy: reads the probabilities of all classes, so that an audit contains its scores.
        scores: [n, K] the score at each exit.
        exits: [n] exit of each sample, below K.

    """
    early = policy.exits - 1
    limits = as_float32([np.inf if t is None else t for t in policy.thresholds])
    scale = np.maximum(1, np.abs(as_float32(policy.score_limits[:early])))
    continued = (scores[:, :early] < limits + SCORE_ERROR * scale) | (np.arange(early) >= exits[:, None])
    exited = (scores[:, :early] >= limits - SCORE_ERROR * scale) | (np.arange(early) != exits[:, None])
    return np.asarray(continued.all(axis=1) & exited.all(axis=1))


def score_difference(policy: Policy, scores: Array, exit_index: int) -> str:
    """Return how the policy decides on the scores [K] of a sample with an impossible decision."""
    expected = int(exits_of(scores[None], policy.thresholds)[0])
    return f"exit {exit_index}, but with its scores the policy '{policy.kind}' takes exit {expected}"


def difference(policy: Policy, readout: Array, exit_index: int) -> str:
    """Return how the policy decides on the readout [K, 4] of a sample with an impossible decision."""
    scores, predictions = simulate(policy, readout[None])
    expected = int(exits_of(scores, policy.thresholds)[0])
    if expected != exit_index:
        return f"exit {exit_index}, but on its readouts the policy '{policy.kind}' takes exit {expected}"
    return (
        f"another prediction at exit {exit_index} than class {predictions[0, exit_index]}, which the policy "
        f"'{policy.kind}' returns for its readouts"
    )


def _moved(readouts: Array, error: npt.NDArray[np.float64]) -> Array:
    """Return variants [V, n, K, 4]: odds and entropies are multiplied by exp of fractions of `error` [K], or divided.

    Most scores are highest and lowest if p1, p2 and the entropy move so in one of the directions of a cube's corners.
    """
    moved: Array = np.empty((len(_MOVES), *readouts.shape), np.float32)
    moved[..., TOP1] = readouts[..., TOP1]
    for column, moves in zip((P1, P2, ENTROPY), _MOVES.T, strict=True):
        values = readouts[..., column].astype(np.float64)
        changed = values * np.exp(moves[:, None, None] * error)
        if column != ENTROPY:
            changed /= 1 - values + changed
        changed += np.sign(moves)[:, None, None] * _ROUNDING
        moved[..., column] = np.clip(changed, 0, np.inf if column == ENTROPY else 1)
    return moved


_MOVES: Final = np.array([np.multiply(part, signs) for part in _FRACTIONS for signs in product((-1, 1), repeat=3)])
"""[V, 3] fractions of the error, of p1, p2 and the entropy."""


def _span(policy: Policy, variants: Array) -> tuple[Array, Array]:
    """Return the lowest and the highest score [n, K] over variants [V, n, K, 4]."""
    if isinstance(policy, Pcee):
        variants = np.concatenate([variants, _in_bins(policy, variants)])
    scores = simulate(policy, variants.reshape(-1, *variants.shape[2:])).scores.reshape(variants.shape[:3])
    return scores.min(axis=0), scores.max(axis=0)


def _in_bins(policy: Pcee, variants: Array) -> Array:
    """Return variants [J, n, K, 4] with p1 in each of the J bins of `policy` that lie between the given variants."""
    bins = len(policy.accuracies[0])
    middles = as_float32((np.arange(bins) + 0.5) / bins)[:, None, None]
    between = np.repeat(variants[:1], bins, axis=0)
    between[..., P1] = np.clip(middles, variants[..., P1].min(axis=0), variants[..., P1].max(axis=0))
    return between
