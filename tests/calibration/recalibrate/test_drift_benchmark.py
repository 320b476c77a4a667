"""The benchmark of recalibration under drift, with few audits of the digits: scripts/bench/drift.py is the long one."""

import pytest

from tests.calibration.recalibrate.known_risk import load

drift, drift_pools = load("drift"), load("drift_pools")
RUNS = (1, 2, 3)
AUDITS = 3500


@pytest.fixture(scope="module")
def outcomes():
    """Return rule -> its outcome in each run with the sudden drift."""
    world = drift_pools.digits_world(epochs=16, copies=1)
    points = world.oracle_points(("easy", "hard"))
    rules = ("guarantee", "guarantee, no forger", "fixed thresholds")
    runs = [
        drift.run(seed, world=world, drift_name="sudden", points=points, audits=AUDITS, rules=rules) for seed in RUNS
    ]
    return dict(zip(rules, zip(*runs, strict=True), strict=True))


def test_fixed_thresholds_exceed_the_risk_after_the_drift(outcomes):
    assert all(one.alarm is None and one.recovered is None for one in outcomes["fixed thresholds"])
    assert all(one.time_held < 0.5 for one in outcomes["fixed thresholds"])  # the drift is after 1,500 of the 3,500


@pytest.mark.parametrize("rule", ["guarantee", "guarantee, no forger"])
def test_the_guarantee_raises_an_alarm_and_recovers(outcomes, rule):
    for one in outcomes[rule]:
        assert one.alarm is not None
        assert one.recovered is not None
        assert one.alarm < 1500
        assert one.recovered <= one.alarm + 50
        assert one.time_held > 0.5
        assert one.false_alarms == 0


@pytest.mark.parametrize("rule", ["guarantee", "guarantee, no forger"])
def test_the_guarantee_holds_its_promise_except_in_one_run(outcomes, rule):
    assert sum(one.kept for one in outcomes[rule]) >= len(RUNS) - 1
