"""The promise, on simulated fleets whose data change often and whose true risk is known exactly.

scripts/bench/drift.py --fleets 1000 is the same with many fleets.
"""

import numpy as np
import pytest
from edgeexit_calibration.recalibrate.audits import outcomes
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules

from tests.calibration.recalibrate.known_risk import load

fleets, known_risk = load("fleets"), load("known_risk")
DELTA = 0.1


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (None, 0.2), (0.9, None), (None, None)])
def test_the_exact_risk_and_cost_are_those_of_many_samples(thresholds):
    data = known_risk.Difficulty((0.5, 0.2), (1.5, 3.0))
    readouts = data.draw(50_000, np.random.default_rng(0))
    audits = known_risk.audits_of(readouts, np.zeros(len(readouts), np.int64), after=0)
    exits, losses = outcomes(known_risk.FULL_DEPTH, audits, [thresholds], "disagreement")
    assert losses.mean() == pytest.approx(data.risk(thresholds), abs=0.004)
    mean_cost = np.array(known_risk.COSTS)[exits].mean() / known_risk.COSTS[-1]
    assert mean_cost == pytest.approx(known_risk.cost(thresholds), abs=0.005)


@pytest.mark.parametrize("forger", ["none", "agrees", "differs", "alternates"])
def test_the_promise_is_broken_in_at_most_a_delta_share_of_the_times_between_changes(forger):
    rules = GuaranteeRules(
        risk=0.05,
        delta=DELTA,
        costs=known_risk.COSTS,
        min_gain=0.005,
        tolerated_devices=int(forger != "none"),
        tolerated_in_alarms=int(forger != "none"),
    )
    found = [
        fleets.simulate_fleet(seed, changes=4, audits=500, forger=forger, rules=rules)
        for seed in range(4 if forger == "none" else 2)
    ]
    assert sum(fleet.broken for fleet in found) <= DELTA * sum(fleet.periods for fleet in found)
    assert sum(fleet.policies for fleet in found) >= 2 * len(found)
    assert sum(fleet.false_alarms for fleet in found) <= 1
    assert np.mean([fleet.cost for fleet in found]) < 0.9
