"""`edgeexit calibrator bounds`, on SQLite and on PostgreSQL."""

import json

import pytest
from edgeexit_calibration import BoundsError, CohortAddress, NameLookupError, events, register
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from tests.calibration.recalibrate.watching import GOAL, ingest
from tests.calibration.scenario import COHORT, state_of


@pytest.fixture
def bounds(database, database_url, bundle):
    """Return a function that runs the command for a registered cohort and returns its output."""
    register(database, bundle, cohort=COHORT, **GOAL)

    def invoke(*arguments):
        arguments = ["bounds", COHORT, *arguments, "--database", database_url]
        return CliRunner().invoke(calibrator_app, arguments, catch_exceptions=False).output

    return invoke


def test_without_options_the_bounds_in_force_are_shown(bounds):
    output = bounds()
    assert "no bounds are set" in output
    assert "as `edgeexit calibrator run` says" in output


def test_options_add_to_the_bounds_and_clear_removes_the_others(database, bounds):
    bounds("--min-final-exits", "0.2", "--max-changes-per-day", "2")
    output = bounds("--frozen", "--min-gain", "0.05")
    for text in ("20.0 % of the samples", "yes: the policy changes after an alarm only", "5.0 % of the cost"):
        assert text in output
    assert "bounds set by " in output
    found = json.loads(bounds("--clear", "--min-gain", "0.1", "--json"))
    assert found["bounds"] == {
        "frozen": False,
        "min_final_exits": 0.0,
        "max_changes_per_day": None,
        "min_gain": 0.1,
    }
    assert "no bounds are set" in bounds("--clear")
    kinds = [event.kind for event in events(database, CohortAddress(found["fleet"], found["bundle"], COHORT))]
    assert kinds == ["registered", *["bounds set"] * 4]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--min-final-exits", "20"),
        ("--min-final-exits", "nan"),
        ("--max-changes-per-day", "-1"),
        ("--min-gain", "0"),
        ("--min-gain", "1"),
    ],
)
def test_a_value_outside_its_range_is_one_line_and_changes_nothing(bounds, option, value):
    with pytest.raises(BoundsError, match=f"{option} {value} must be ") as raised:
        bounds(option, value)
    assert "\n" not in str(raised.value)
    assert "no bounds are set" in bounds()


def test_an_unknown_and_an_unregistered_cohort_are_errors(database, database_url, bundle):
    def invoke(name):
        CliRunner().invoke(calibrator_app, ["bounds", name, "--database", database_url], catch_exceptions=False)

    ingest(database, state_of(bundle.digest))
    with pytest.raises(BoundsError, match="is not registered"):
        invoke(COHORT)
    with pytest.raises(NameLookupError, match="did you mean cameras"):
        invoke("camera")
