"""How `cats` is fitted: meta classifiers that predict whether the final exit agrees; and the paper's threshold."""

from math import ceil

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.fitting.replay import replay
from edgeexit.fitting.splits import halves
from edgeexit.fitting.temperature import temperature_variants
from edgeexit.policies.cats import Cats
from edgeexit.policies.readout import ENTROPY, P1, P2, Array

_PRIOR = 1.0
"""Strength of the L2 penalty on weights and biases (C = 1 in scikit-learn). Without it they would be infinite where an
exit always agrees."""
_DECIMALS = 4


def cats_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Cats, ...]:
    """Return CATs with a logistic regression of agreement at each early exit.

    There is one candidate under fitted temperatures and one under the dataset's.

    Source: "Consistent Accelerated Inference via Confident Adaptive Transformers" (Schuster et al., EMNLP 2021):
    a meta classifier predicts consistency with the full model.
    """
    return tuple(_fitted(variant) for variant in temperature_variants(dataset, fit=options.temperatures))


def cats_rule(dataset: ReadoutDataset, eps: float, *, seed: int = 0) -> Cats:
    """Return CATs with one threshold for all exits, chosen by conformal calibration.

    One half of the samples trains the meta classifiers, the other half calibrates the threshold. In expectation over
    the calibrating half, the prediction differs from the final exit's on at most a fraction `eps` of new samples.
    Raises FittingError for an `eps` that is not between 0 and 1, for fewer than 2 samples, and for segmentation, where
    an exit agrees on a fraction of the pixels.

    Source: Schuster et al., EMNLP 2021 ("shared" calibration).
    """
    if not 0 < eps < 1:
        raise FittingError(f"eps {eps:g} must be between 0 and 1, e.g. 0.05")
    if dataset.maps is not None:
        raise FittingError(
            "the rule of CATs needs samples that agree or disagree; in segmentation and tagging, a sample agrees on a "
            "fraction of its pixels or tokens"
        )
    if len(dataset) < 2:  # noqa: PLR2004 - one per half
        raise FittingError(f"{len(dataset)} samples are too few for the rule of CATs: one half trains, one calibrates")
    training, calibrating = (dataset.take(half) for half in halves(len(dataset), seed))
    candidate = _fitted(training)
    scores, predictions = replay(candidate, calibrating)
    threshold = conformal_threshold(scores[:, :-1], calibrating.disagreement(predictions)[:, :-1] > 0, eps)
    return msgspec.structs.replace(candidate, thresholds=(threshold,) * (dataset.exits - 1))


def conformal_threshold(scores: Array, disagrees: npt.NDArray[np.bool_], eps: float) -> float | None:
    """Return the threshold for scores [N, K-1], and whether each exit disagrees with the final one [N, K-1].

    Only samples with an exit that disagrees count. The highest score of a disagreeing exit of such a sample is
    exchangeable with that of a new one: the ceil((n + 1)(1 - eps))-th lowest of n is exceeded with probability at most
    eps. A sample must exit strictly above it, so the next float32 is returned, or None if there are too few such
    samples.
    """
    affected = disagrees.any(axis=1)
    highest = np.sort(np.where(disagrees, scores, -np.inf).max(axis=1)[affected])
    rank = ceil((len(highest) + 1) * (1 - eps) - 1e-9)
    if rank > len(highest):
        return None
    return float(np.nextafter(np.float32(highest[rank - 1]), np.float32(np.inf)))


def _fitted(dataset: ReadoutDataset) -> Cats:
    agreement = 1 - dataset.disagreement(dataset.exit_predictions)
    weights, biases = [], []
    for k in range(dataset.exits - 1):
        readout = dataset.readouts[:, k].astype(np.float64)
        features = np.stack([readout[:, P1], readout[:, P1] - readout[:, P2], readout[:, ENTROPY]], axis=1)
        weight, bias = _logistic_regression(features, agreement[:, k])
        weights.append(tuple(round(float(value), _DECIMALS) for value in weight))
        biases.append(round(bias, _DECIMALS))
    return unfitted(Cats, dataset, weights=tuple(weights), biases=tuple(biases))


def _logistic_regression(features: Values, targets: Values) -> tuple[Values, float]:
    """Return weights [F] and bias for features [N, F] and targets [N] in [0, 1] (segmentation: fractions of pixels)."""
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-6] = 1.0  # noqa: PLR2004 - a constant feature gets a weight of 0
    inputs = np.column_stack([(features - centre) / spread, np.ones(len(features))])

    def loss(parameters: Values) -> tuple[float, Values]:
        z = inputs @ parameters
        value = np.logaddexp(0, z).sum() - targets @ z + _PRIOR * parameters @ parameters / 2
        gradient = inputs.T @ (expit(z) - targets) + _PRIOR * parameters
        return float(value) / len(targets), gradient / len(targets)

    found = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-8}).x
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ centre)


KIND = FittingKind(
    policy=Cats,
    summary="probability that the final exit agrees",
    learns=("temperatures", "a logistic regression per exit"),
    source="CATs (Schuster et al., EMNLP 2021)",
    make_candidates=cats_candidates,
    published=PublishedMethod(name="CATs", parameter="disagreement", fit=cats_rule),
)
