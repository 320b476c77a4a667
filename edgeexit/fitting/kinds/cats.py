"""The meta classifiers of CATs, which foresee whether the final exit will say the same."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.fitting.temperature import readings
from edgeexit.policies.cats import Cats
from edgeexit.policies.readout import ENTROPY, P1, P2

_PRIOR = 1.0
"""Strength of the pull of weights and biases to 0, as for C = 1 in common tools: with all samples alike, nothing else
would keep them finite."""
_DECIMALS = 4


def cats_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Cats, ...]:
    """Return CATs with a logistic regression of agreement at each early exit, under fitted temperatures and as it is.

    Source: "Consistent Accelerated Inference via Confident Adaptive Transformers" (Schuster et al., EMNLP 2021):
    a meta classifier predicts consistency with the full model.
    """
    return tuple(_fitted(read) for read in readings(dataset, fit=options.temperatures))


def _fitted(dataset: ReadoutDataset) -> Cats:
    agreement = 1 - dataset.disagreement(dataset.exit_predictions)
    weights, biases = [], []
    for k in range(dataset.exits - 1):
        readout = dataset.readouts[:, k].astype(np.float64)
        features = np.stack([readout[:, P1], readout[:, P1] - readout[:, P2], readout[:, ENTROPY]], axis=1)
        weight, bias = _logistic_regression(features, agreement[:, k])
        weights.append(tuple(round(float(value), _DECIMALS) for value in weight))
        biases.append(round(bias, _DECIMALS))
    return Cats(
        temperatures=dataset.temperatures,
        thresholds=(None,) * (dataset.exits - 1),
        weights=tuple(weights),
        biases=tuple(biases),
    )


def _logistic_regression(features: Values, targets: Values) -> tuple[Values, float]:
    """Return weights [F] and bias for features [N, F] and targets [N] in [0, 1] (shares of pixels, to segment)."""
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-6] = 1.0  # noqa: PLR2004 - a feature that never changes says nothing, and gets a weight of 0
    inputs = np.column_stack([(features - centre) / spread, np.ones(len(features))])

    def loss(parameters: Values) -> tuple[float, Values]:
        z = inputs @ parameters
        value = np.logaddexp(0, z).sum() - targets @ z + _PRIOR * parameters @ parameters / 2
        gradient = inputs.T @ (expit(z) - targets) + _PRIOR * parameters
        return float(value) / len(targets), gradient / len(targets)

    found = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-8}).x
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ centre)
