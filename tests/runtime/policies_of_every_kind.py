"""A policy of every kind, with thresholds in the middle of what a recording's samples score at each exit."""

import msgspec
import numpy as np

from edgeexit.policies import (
    KINDS,
    AnyPolicy,
    Beem,
    Cats,
    Confidence,
    Eenet,
    Entropy,
    Margin,
    Patience,
    Pcee,
    Voting,
    Ztw,
    simulate,
)
from edgeexit.policies.readout import COLUMNS, Array


def policies_on(readouts: Array) -> dict[str, AnyPolicy]:
    """Return kind -> policy for readouts [N, K, 4 + C] under temperature 1."""
    _, exits, width = readouts.shape
    early, classes = exits - 1, width - len(COLUMNS)
    rng = np.random.default_rng(0)
    rest = {"temperatures": (1.0,) * exits, "thresholds": (None,) * early}
    found = [
        Confidence(**rest),
        Entropy(**rest, classes=classes),
        Margin(**rest),
        Patience(**rest),
        Voting(**rest),
        Beem(**rest, weights=tuple(rng.uniform(0.5, 1, exits))),
        Pcee(**rest, accuracies=tuple(tuple(np.sort(rng.random(6))) for _ in range(early))),
        Cats(**rest, weights=((1.0, 0.5, -0.5),) * early, biases=(0.1,) * early),
        Ztw(
            **rest,
            weights=tuple(tuple(rng.uniform(0.2, 1, k + 1)) for k in range(early)),
            biases=tuple(tuple(rng.normal(0, 1, classes)) for _ in range(early)),
        ),
        Eenet(
            **rest,
            class_weights=tuple(tuple(rng.normal(0, 0.5, classes)) for _ in range(early)),
            statistic_weights=tuple((1.0, 0.3, *rng.normal(0, 0.3, k)) for k in range(early)),
        ),
    ]
    policies = {policy.kind: _halving(policy, readouts) for policy in found}
    assert policies.keys() == KINDS.keys(), "a new kind needs an example here"
    return policies


def _halving(policy: AnyPolicy, readouts: Array) -> AnyPolicy:
    scores = simulate(policy, readouts).scores
    distinct = [np.unique(scores[:, k]) for k in range(policy.exits - 1)]
    # One score alone, such as that of the first exit's vote: nothing leaves there.
    thresholds = tuple(float(found[len(found) // 2]) if len(found) > 1 else None for found in distinct)
    return msgspec.structs.replace(policy, thresholds=thresholds)
