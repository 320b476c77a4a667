"""CATs' own threshold: consistency with the final exit, by conformal calibration."""

from math import ceil

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.certify import halves
from edgeexit.fitting.kinds import CandidateOptions
from edgeexit.fitting.kinds.cats import cats_candidates
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import simulate
from edgeexit.policies.cats import Cats
from edgeexit.policies.readout import Array


def cats_rule(dataset: ReadoutDataset, eps: float, *, seed: int = 0) -> Cats:
    """Return CATs with one threshold for all exits, under which early answers are the final exit's but for `eps`.

    One half of the samples fits the meta classifiers, the other calibrates. In expectation over the calibrating half,
    at most a share `eps` of new samples is answered otherwise than by the final exit. Raises FittingError for an `eps`
    that is not between 0 and 1, fewer than 2 samples, and maps, which agree in a share of their pixels.

    Source: Schuster et al., EMNLP 2021 ("shared" calibration).
    """
    if not 0 < eps < 1:
        raise FittingError(f"eps {eps:g} must lie between 0 and 1, e.g. 0.05")
    if dataset.maps is not None:
        raise FittingError("the rule of CATs needs samples that agree or not; maps agree in a share of their pixels")
    if len(dataset) < 2:  # noqa: PLR2004 - one for each half
        raise FittingError(f"{len(dataset)} samples are too few for the rule of CATs: one half learns, one calibrates")
    learning, calibrating = (dataset.take(half) for half in halves(len(dataset), seed))
    options = CandidateOptions(budget=dataset.costs[-1], temperatures=False)
    candidate = cats_candidates(learning, options)[0]
    scores, predictions = simulate(candidate, calibrating.readouts)
    threshold = conformal_threshold(scores[:, :-1], calibrating.disagreement(predictions)[:, :-1] > 0, eps)
    return msgspec.structs.replace(candidate, thresholds=(threshold,) * (dataset.exits - 1))


def conformal_threshold(scores: Array, disagrees: npt.NDArray[np.bool_], eps: float) -> float | None:
    """Return the threshold for scores [N, K-1] and where an exit disagrees with the final one [N, K-1].

    A sample in danger is one that some exit answers otherwise. The highest score of such an exit is exchangeable with
    that of a new sample in danger: the ceil((n + 1)(1 - eps))-th least of n is exceeded with probability eps at most.
    A sample leaves strictly above it, hence the next float32. None: too few samples in danger to say.
    """
    endangered = disagrees.any(axis=1)
    highest = np.sort(np.where(disagrees, scores, -np.inf).max(axis=1)[endangered])
    rank = ceil((len(highest) + 1) * (1 - eps) - 1e-9)
    if rank > len(highest):
        return None
    return float(np.nextafter(np.float32(highest[rank - 1]), np.float32(np.inf)))
