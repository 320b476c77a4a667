"""From audits to the next policy document: one that devices would take, or a reason to wait."""

import numpy as np
from edgeexit_calibration.recalibrate import Hold, next_document

from edgeexit.policies import (
    Confidence,
    PolicyDocument,
    Scope,
    decode_document,
    disagrees,
    encode_document,
    simulate_exits,
)
from tests.calibration.scenario import readouts_of

CURRENT = PolicyDocument(
    bundle="a" * 64,
    revision=4,
    policy=Confidence(temperatures=(1.0, 1.5, 2.0), thresholds=(0.5, 0.5)),
    scope=Scope(cohort="cameras"),
)
GOAL = {"cohort": "cameras", "risk": 0.1, "delta": 0.1}
COSTS = (1.0, 2.0, 3.0)


def test_the_next_revision_keeps_the_goal_on_new_samples():
    document = next_document(CURRENT, readouts_of(2000, trust=0.9), COSTS, **GOAL)
    assert document.revision == 5
    assert document.bundle == CURRENT.bundle
    assert document.scope == CURRENT.scope
    assert document.policy.temperatures == CURRENT.policy.temperatures
    assert document.certificate.risk == 0.1
    assert document.certificate.upper_bound <= 0.1
    assert decode_document(encode_document(document)) == document
    fresh = readouts_of(50_000, trust=0.9, seed=99)
    exits = simulate_exits(document.policy, fresh)
    assert disagrees(fresh, exits).mean() <= 0.1 < disagrees(fresh, simulate_exits(CURRENT.policy, fresh)).mean()
    assert (exits == 0).any()  # and is not just full depth


def test_too_few_audits_hold_and_say_how_many_are_missing():
    held = next_document(CURRENT, readouts_of(30), COSTS, **GOAL)
    assert isinstance(held, Hold)
    assert held.cause == "too few audits"
    assert "30 audits" in held.reason
    assert next_document(CURRENT, readouts_of(200), COSTS, **GOAL, min_audits=201).cause == "too few audits"
    assert isinstance(next_document(CURRENT, readouts_of(200), COSTS, **GOAL, min_audits=200), PolicyDocument)


def test_audits_that_no_policy_can_be_fitted_to_hold():
    held = next_document(CURRENT, readouts_of(300), (3.0, 2.0, 1.0), **GOAL)
    assert held.cause == "no policy fits"
    assert "increasing" in held.reason


def test_exits_that_cannot_be_trusted_at_all_go_to_full_depth_as_far_as_the_risk_asks():
    document = next_document(CURRENT, readouts_of(1000, trust=0.0), COSTS, **GOAL)
    fresh = readouts_of(10_000, trust=0.0, seed=5)
    assert np.mean(simulate_exits(document.policy, fresh) == 2) >= 0.9
