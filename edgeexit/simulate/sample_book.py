"""The recorded samples of a bundle as a policy sees them: exits, bins of scores, and the JSON of audited samples."""

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.policies import Policy, Simulation
from edgeexit.policies.readout import TOP1, Array
from edgeexit.policies.simulation import exits_of
from edgeexit.wire import SCORE_BINS, AuditedSample


class PolicySamples:
    """N recorded samples under one policy.

    Attributes:
        kind: kind of the policy.
        exits: [N] int64 exit of each sample.
        score_bins: [N, K] int64 bin of the score at each exit, as in reports.
        disagrees: [N] bool; True where the prediction differs from the final exit's; for maps, where a larger fraction
            of it differs than on average.

    """

    def __init__(self, policy: Policy, dataset: ReadoutDataset) -> None:
        self.kind = policy.kind
        self._readouts: Array = dataset.at(policy.temperatures).readouts
        scores, predictions = replay(policy, dataset)
        self.exits = exits_of(scores, policy.thresholds)
        # fmax replaces NaN by 0, as the counters of an agent do.
        fraction = np.fmax(scores / np.float32(policy.score_limit), 0)
        self.score_bins: npt.NDArray[np.int64] = np.fmin(fraction * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
        self._taken = predictions[np.arange(len(predictions)), self.exits]
        self._scored = Simulation(scores, predictions) if policy.reads_probabilities else None
        self._differing = None if dataset.maps is None else dataset.maps.disagreement
        self.disagrees: npt.NDArray[np.bool_] = self._taken != self._readouts[:, -1, TOP1]
        if self._differing is not None:
            fractions = self._differing[np.arange(len(predictions)), self.exits]
            self.disagrees = np.asarray(fractions > fractions.mean())
        self.first_scores: Array = scores[:, 0]
        self._finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(self._readouts).all(axis=(1, 2)))
        self._encoded: dict[int, bytes] = {}

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.exits)

    def audited(self, index: int) -> bytes | None:
        """Return the JSON of an `AuditedSample`; None if its readout is not finite, so that an agent skips it."""
        encoded = self._encoded.get(index)
        if encoded is None and self._finite[index]:
            sample = AuditedSample.from_readout(
                self._readouts[index],
                exit_index=int(self.exits[index]),
                prediction=int(self._taken[index]),
                scores=None if self._scored is None else self._scored.scores[index],
                predictions=None if self._scored is None else self._scored.predictions[index],
                differing=None if self._differing is None else self._differing[index],
            )
            encoded = self._encoded[index] = msgspec.json.encode(sample)
        return encoded


class SampleBook:
    """Recorded samples under every policy of a run."""

    def __init__(self, dataset: ReadoutDataset) -> None:
        self._dataset = dataset
        self._known: list[tuple[Policy, PolicySamples]] = []

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)

    def under(self, policy: Policy) -> PolicySamples:
        """Return the samples under a policy. Raises FittingError as `replay`."""
        for known, samples in self._known:
            if known == policy:
                return samples
        samples = PolicySamples(policy, self._dataset)
        self._known.append((policy, samples))
        return samples
