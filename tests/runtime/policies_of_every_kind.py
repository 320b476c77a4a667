"""Makes a policy of every kind, whose thresholds are the median scores of a recording at each exit."""

import msgspec
import numpy as np

from edgeexit.policies import KINDS, Policy, simulate
from edgeexit.policies.readout import COLUMNS, Array
from tests.policies.policy_examples import make_policy


def policies_on(readouts: Array) -> dict[str, Policy]:
    """Return kind -> policy for readouts [N, K, 4 + C] under temperature 1."""
    _, exits, width = readouts.shape
    return {
        kind: _with_median_thresholds(make_policy(kind, exits=exits, classes=width - len(COLUMNS), seed=2), readouts)
        for kind in KINDS
    }


def _with_median_thresholds(policy: Policy, readouts: Array) -> Policy:
    scores = simulate(policy, readouts).scores
    distinct = [np.unique(scores[:, k]) for k in range(policy.exits - 1)]
    # An exit at which all samples have the same score, e.g. the first vote, gets no threshold: no sample exits there.
    thresholds = tuple(float(found[len(found) // 2]) if len(found) > 1 else None for found in distinct)
    return msgspec.structs.replace(policy, thresholds=thresholds)
