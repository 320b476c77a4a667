"""How `ztw` is fitted: the weights of the exits in each ensemble, and the biases of the classes."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from edgeexit.fitting.kinds.kind import FittingKind
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.fitting.temperature import base_variant
from edgeexit.policies.readout import Array
from edgeexit.policies.ztw import Ztw

_MIN_WEIGHT = 0.01
_PRIOR_WEIGHT, _PRIOR_BIAS = 1.0, 4.0
"""Strength of the L2 penalties that pull weights to 1 and biases to 0 (the plain geometric mean).

Their effect is that of a few samples: a class that is rare in a small dataset still gets a probability.
"""
_DECIMALS = 4
_BLOCK = 2**18
"""Numbers in a block of samples: 1 MiB in float32, which the cache of a core can hold."""


def ztw_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Ztw]:
    """Return ZTW with the weights and biases of minimum negative log-likelihood, under the base temperatures.

    There is one candidate, because the weights can express any temperatures: a sum of w_j log softmax(z_j / T_j) is the
    same ensemble for the same w_j / T_j, unless probabilities underflow, which they do not under the base temperatures.
    For segmentation it is the plain geometric mean, because an average over pixels is not the probability of a class,
    and a sample has no single true class to fit to. The logarithms of the early exits are in memory at once, in
    float32. Raises FittingError for readouts without probabilities.

    Source: Zero Time Waste (Wolczyk et al., NeurIPS 2021), with the mean over exits of the authors' code. They use an
    exponential to keep weights positive; a lower bound does the same and keeps the problem convex.
    """
    dataset, classes = base_variant(dataset, fit=options.temperatures), dataset.require_classes()
    logs: list[Array] = []
    weights, biases = [], []
    for k in range(dataset.exits - 1):
        weight, bias = np.ones(k + 1), np.zeros(classes)
        if dataset.maps is None:
            logs.append(_log_probabilities(dataset, k))
            weight, bias = _ensemble(logs, dataset.truth)
        weights.append(tuple(round(float(value), _DECIMALS) for value in weight))
        biases.append(tuple(round(float(value), _DECIMALS) for value in bias))
    return (unfitted(Ztw, dataset, weights=tuple(weights), biases=tuple(biases)),)


def _log_probabilities(dataset: ReadoutDataset, exit_index: int) -> Array:
    """Return the logarithms of the probabilities [N, C] of an exit; 0 counts as the smallest normal float32."""
    logs = dataset.exit_probabilities(exit_index)
    np.maximum(logs, np.finfo(np.float32).tiny, out=logs)
    return np.log(logs, out=logs)


def _ensemble(logs: Sequence[Array], truth: Indices) -> tuple[Values, Values]:
    """Return weights [J] and biases [C] for the log-probabilities [J][N, C] of exits 0 to J - 1."""
    exits, (samples, classes) = len(logs), logs[0].shape
    seen = np.bincount(truth, minlength=classes)
    size = min(max(_BLOCK // classes, 1), samples)
    room = np.empty((2, size, classes), dtype=np.float32)

    def loss(parameters: Values) -> tuple[float, Values]:
        weights, biases = parameters[:exits], parameters[exits:]
        scale, shift = (weights / exits).astype(np.float32), biases.astype(np.float32)
        value, by_weight, by_bias = 0.0, np.zeros(exits), -seen.astype(np.float64)
        for start in range(0, samples, size):
            block = slice(start, min(start + size, samples))
            logits, product = room[:, : block.stop - start]
            logits[:] = shift
            for factor, exit_logs in zip(scale, logs, strict=True):
                logits += np.multiply(exit_logs[block], factor, out=product)
            logits -= logits.max(axis=1, keepdims=True)
            of_truth = np.arange(len(logits)), truth[block]
            value -= logits[of_truth].sum(dtype=np.float64)
            chances = np.exp(logits, out=logits)
            totals = chances.sum(axis=1, keepdims=True)
            value += np.log(totals).sum(dtype=np.float64)
            chances /= totals
            by_bias += chances.sum(axis=0)
            chances[of_truth] -= 1
            for j, exit_logs in enumerate(logs):
                by_weight[j] += np.einsum("nc,nc->n", chances, exit_logs[block]).sum(dtype=np.float64) / exits
        value += (_PRIOR_WEIGHT * ((weights - 1) ** 2).sum() + _PRIOR_BIAS * (biases**2).sum()) / 2
        gradient = np.concatenate([by_weight + _PRIOR_WEIGHT * (weights - 1), by_bias + _PRIOR_BIAS * biases])
        return float(value) / samples, gradient / samples

    start = np.concatenate([np.ones(exits), np.zeros(classes)])
    bounds = [(_MIN_WEIGHT, None)] * exits + [(None, None)] * classes
    # The sums within a block are in float32, so a finer tolerance has no effect.
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-7, "gtol": 1e-5, "maxiter": 200}
    ).x
    return found[:exits], found[exits:]


KIND = FittingKind(
    policy=Ztw,
    summary="top-1 probability of an ensemble of the exits so far; its class is the prediction",
    learns=("weights", "biases"),
    source="Zero Time Waste (Wolczyk et al., NeurIPS 2021)",
    make_candidates=ztw_candidates,
)
