"""Replays a policy on a readout dataset: scores and predictions of all samples at all exits."""

import numpy as np

from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import Policy, Simulation, simulate


def replay(policy: Policy, dataset: ReadoutDataset) -> Simulation:
    """Return scores and predictions [N, K] of a policy, under its own temperatures.

    Works in blocks of samples if the policy reads the probabilities of all classes. Raises FittingError as
    `ReadoutDataset.at`, and for such a policy as `ReadoutDataset.readout_blocks`.
    """
    seen = dataset.at(policy.temperatures)
    if not policy.reads_probabilities:
        return simulate(policy, seen.readouts)
    scores = np.empty((len(seen), seen.exits), dtype=np.float32)
    predictions = np.empty((len(seen), seen.exits), dtype=np.int64)
    start = 0
    for block in seen.readout_blocks():
        part = slice(start, start + len(block))
        scores[part], predictions[part] = simulate(policy, block)
        start = part.stop
    return Simulation(scores, predictions)
