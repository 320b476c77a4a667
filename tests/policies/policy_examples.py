"""Policies of all kinds with random parameters, random readouts, and a reference loop over the exits."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from edgeexit.policies import KINDS, Policy
from edgeexit.policies.readout import Array

EXITS = 5


class Decided(NamedTuple):
    """Exit, prediction and scores of each sample."""

    exits: Any
    """[N]"""
    predictions: Any
    """[N]"""
    scores: Any
    """[N, K]; NaN after the exit taken."""


def make_policy(kind: str, *, exits: int = EXITS, classes: int = 4, seed: int = 0, **fields: Any) -> Policy:
    """Return a policy whose thresholds are reached by some random readouts and not by others."""
    random = np.random.default_rng(seed)
    early = exits - 1

    def rows(lengths: list[int], low: float, high: float) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(random.uniform(low, high, length).tolist()) for length in lengths)

    own: dict[str, Any] = {}
    thresholds = random.uniform(0.4, 0.9, early)
    if kind == "entropy":
        own = {"classes": classes}
    elif kind == "patience":
        thresholds = random.integers(0, 3, early).astype(float)
    elif kind == "voting":
        thresholds[0] = 2 if seed % 2 else 0.9  # at the first exit the fraction is always 1
    elif kind == "beem":
        own = {"weights": tuple(random.uniform(0.3, 1, exits).tolist())}
    elif kind == "pcee":
        own = {"accuracies": rows([int(random.integers(1, 12))] * early, 0, 1)}
    elif kind == "cats":
        own = {"weights": rows([3] * early, -3, 3), "biases": tuple(random.normal(0, 1, early).tolist())}
    elif kind == "ztw":
        own = {"weights": rows([k + 1 for k in range(early)], 0.1, 2), "biases": rows([classes] * early, -1, 1)}
    elif kind == "eenet":
        own = {
            "class_weights": rows([classes] * early, -0.5, 1),
            "statistic_weights": rows([2 + k for k in range(early)], -0.5, 1),
        }
    rest = {"temperatures": (1.0,) * exits, "thresholds": tuple(thresholds.tolist())}
    return KINDS[kind](**(rest | own | fields))


def make_readouts(samples: int, *, exits: int = EXITS, classes: int = 4, seed: int = 0) -> Array:
    """Return readouts [N, K, 4 + C] of random logits, some of them very confident."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, (samples, exits, classes)) * random.choice([0.5, 3, 200], (samples, exits, 1))
    exponents = np.exp(logits - logits.max(axis=2, keepdims=True))
    p = exponents / exponents.sum(axis=2, keepdims=True)
    top = np.sort(p, axis=2)
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=2)
    columns = np.stack([p.argmax(axis=2), top[:, :, -1], top[:, :, -2], entropy], axis=2)
    return np.concatenate([columns, p], axis=2).astype(np.float32)


def as_read(policy: Policy, readouts: Array) -> Array:
    """Return the part of readouts [N, K, 4 + C] that the runner passes to the policy."""
    return readouts if policy.reads_probabilities else readouts[:, :, :4]


def decide_in_turn(policy: Policy, readouts: Array) -> Decided:
    """Decide exit by exit as the runner does: samples that exited are removed from the batch."""
    samples = len(readouts)
    outcome = Decided(
        np.full(samples, -1), np.full(samples, -1.0), np.full((samples, policy.exits), np.nan, np.float32)
    )
    remaining, state = np.arange(samples), policy.initial_state(samples)
    for k in range(policy.exits):
        decision = policy.decide(k, np.ascontiguousarray(as_read(policy, readouts)[remaining, k]), state)
        outcome.scores[remaining, k] = decision.score
        exiting = remaining[decision.exit_mask]
        outcome.exits[exiting], outcome.predictions[exiting] = k, decision.prediction[decision.exit_mask]
        remaining, state = remaining[~decision.exit_mask], decision.state[~decision.exit_mask]
    return outcome


kinds = st.sampled_from(sorted(KINDS))
seeds = st.integers(0, 2**32 - 1)
