"""BEEM's weights: an exit's accuracy (BEEM-A), its depth (BEEM-C), or one's own."""

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.temperature import readings
from edgeexit.policies.beem import Beem
from edgeexit.policies.fields import require_positive

_MIN = 1e-3
"""An exit that is never right still needs a weight above 0."""


def beem_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Beem, ...]:
    """Return BEEM with the weights that are asked for, under fitted temperatures and as it is.

    Raises FittingError for weights of another name, number or sign.
    """
    weights = beem_weights(dataset, options.weights)
    return tuple(
        Beem(temperatures=read.temperatures, thresholds=(None,) * (read.exits - 1), weights=weights)
        for read in readings(dataset, fit=options.temperatures)
    )


def beem_weights(dataset: ReadoutDataset, asked: str | tuple[float, ...]) -> tuple[float, ...]:
    """Return BEEM's weights [K]: `accuracy`, `cost`, or those that are given.

    `accuracy` (BEEM-A): the share of right answers at each exit; without labels, of the final exit's. `cost` (BEEM-C):
    lambda (k + 1) with lambda = 1 / K, so that the final exit weighs 1. Raises FittingError as `beem_candidates`.

    Source: arXiv:2502.00745; lambda only scales the scores, and thresholds with them.
    """
    exits = dataset.exits
    if asked == "accuracy":
        accuracy = 1 - dataset.losses(dataset.exit_predictions).mean(axis=0)
        return tuple(round(max(float(value), _MIN), 6) for value in accuracy)
    if asked == "cost":
        return tuple(round((k + 1) / exits, 6) for k in range(exits))
    if isinstance(asked, str):
        raise FittingError(f"weights '{asked}' are unknown; say accuracy, cost, or {exits} numbers above 0")
    if len(asked) != exits:
        raise FittingError(f"weights {list(asked)} must be {exits} finite numbers above 0, one an exit")
    try:
        require_positive("weights", asked)
    except ValueError as error:
        raise FittingError(str(error)) from error
    return tuple(float(weight) for weight in asked)
