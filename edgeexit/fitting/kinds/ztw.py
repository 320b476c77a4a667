"""How `ztw` is fitted: the weights of the exits in each ensemble, and the biases of the classes."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from edgeexit.fitting.kinds.kind import FittingKind
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.fitting.temperature import log_probabilities
from edgeexit.policies.ztw import Ztw

_MIN_WEIGHT = 0.01
_PRIOR_WEIGHT, _PRIOR_BIAS = 1.0, 4.0
"""Strength of the L2 penalties that pull weights to 1 and biases to 0 (the plain geometric mean).

Their effect is that of a few samples: a class that is rare in a small dataset still gets a probability.
"""
_DECIMALS = 4


def ztw_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Ztw]:  # noqa: ARG001 - no options
    """Return ZTW with the weights and biases of minimum negative log-likelihood.

    There is one candidate, because the weights can express any temperatures: a sum of w_j log softmax(z_j / T_j) is the
    same ensemble for the same w_j / T_j. For segmentation it is the plain geometric mean, because an average over
    pixels is not the probability of a class, and a sample has no single true class to fit to. Raises FittingError for
    readouts without probabilities.

    Source: Zero Time Waste (Wolczyk et al., NeurIPS 2021), with the mean over exits of the authors' code. They use an
    exponential to keep weights positive; a lower bound does the same and keeps the problem convex.
    """
    logs = log_probabilities(dataset.probabilities)
    weights, biases = [], []
    for k in range(dataset.exits - 1):
        weight, bias = np.ones(k + 1), np.zeros(logs.shape[2])
        if dataset.maps is None:
            weight, bias = _ensemble(logs[:, : k + 1], dataset.truth)
        weights.append(tuple(round(float(value), _DECIMALS) for value in weight))
        biases.append(tuple(round(float(value), _DECIMALS) for value in bias))
    return (unfitted(Ztw, dataset, weights=tuple(weights), biases=tuple(biases)),)


def _ensemble(logs: npt.NDArray[np.float32], truth: Indices) -> tuple[Values, Values]:
    """Return weights [J] and biases [C] for log-probabilities [N, J, C] of exits 0 to J - 1."""
    samples, exits, classes = logs.shape
    rows = np.arange(samples)
    seen = np.bincount(truth, minlength=classes)

    def loss(parameters: Values) -> tuple[float, Values]:
        weights, biases = parameters[:exits], parameters[exits:]
        logits = np.einsum("j,njc->nc", (weights / exits).astype(np.float32), logs) + biases.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        totals = chances.sum(axis=1, keepdims=True)
        value = (np.log(totals[:, 0]) - logits[rows, truth]).sum(dtype=np.float64)
        chances /= totals
        by_bias = chances.sum(axis=0, dtype=np.float64) - seen
        chances[rows, truth] -= 1
        by_weight = np.einsum("nc,njc->j", chances, logs, dtype=np.float64) / exits
        value += (_PRIOR_WEIGHT * ((weights - 1) ** 2).sum() + _PRIOR_BIAS * (biases**2).sum()) / 2
        gradient = np.concatenate([by_weight + _PRIOR_WEIGHT * (weights - 1), by_bias + _PRIOR_BIAS * biases])
        return float(value) / samples, gradient / samples

    start = np.concatenate([np.ones(exits), np.zeros(classes)])
    bounds = [(_MIN_WEIGHT, None)] * exits + [(None, None)] * classes
    # The sums over samples are in float32, so a finer tolerance has no effect.
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
