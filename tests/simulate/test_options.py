"""Times and drifts on the command line."""

import pytest

from edgeexit.errors import ConfigError
from edgeexit.simulate import InputDrift, SimulationOptions, parse_drift, parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("1.5s", 1.5), ("10m", 600), ("2h", 7200)])
def test_times_have_units(text, seconds):
    assert parse_duration("--duration", text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1 s", "nan"])
def test_other_text_is_not_a_time(text):
    with pytest.raises(ConfigError, match=r"--duration '.*' is not a time; write e.g. 60s"):
        parse_duration("--duration", text)


def test_a_drift_has_a_kind_a_fraction_and_a_time():
    assert parse_drift("hard@30s") == InputDrift(kind="hard", fraction=0.5, begins_s=30.0)
    assert parse_drift("disagreeing:0.25@2m") == InputDrift(kind="disagreeing", fraction=0.25, begins_s=120.0)


@pytest.mark.parametrize("text", ["hard", "soft@3s", "hard:0@3s", "hard:2@3s", "hard:..@3s", "hard@x"])
def test_another_drift_is_refused_with_the_value(text):
    with pytest.raises(ConfigError, match=f"--drift '{text}'"):
        parse_drift(text)


def test_the_load_is_the_rate_or_follows_from_the_interval():
    assert SimulationOptions(devices=120, interval_s=60).reports_per_s == 2
    assert SimulationOptions(devices=120, rate=7).reports_per_s == 7
