"""`register --budget-ms` and what `explain` and `status` print of it."""

import json
from datetime import datetime, timezone

import pytest
from typer.testing import CliRunner

from edgeexit.bundle import Bundle
from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import ConfigError, FittingError
from tests.calibration.profiles import profile_of
from tests.calibration.recalibrate.watching import ingest, new_watcher
from tests.calibration.scenario import COHORT, FLEET, RISK, audits_of, fitted_bundle, report_of, state_of

NOW = datetime.now(timezone.utc)


@pytest.fixture
def measured(tmp_path):
    """Return a bundle whose exits cost 1, 2 and 4 ms."""
    bundle = fitted_bundle(tmp_path / "bundle")
    bundle.write_profile(profile_of(bundle.digest, (1.0, 2.0, 4.0)))
    return Bundle.open(bundle.path)


@pytest.fixture
def run(database_url):
    """Return a function that runs a command in this process; it raises the error that the entry point prints."""

    def invoke(*arguments):
        arguments = [*map(str, arguments), "--database", database_url]
        return CliRunner().invoke(calibrator_app, arguments, catch_exceptions=False).output

    return invoke


@pytest.fixture
def register(run, measured):
    def invoke(*options):
        return run("register", measured.path, "--fleet", FLEET, "--cohort", COHORT, "--max-risk", RISK, *options)

    return invoke


def test_a_budget_is_printed_kept_and_removed(register, run):
    assert "budget 3 ms per sample; costs of the exits: 1 / 2 / 4 ms (registered)" in register("--budget-ms", 3)
    assert "budget 3 ms per sample, as registered before (--no-budget removes it)" in register()
    assert json.loads(run("status", "--json"))["cohorts"][0]["cohort"]["budget_ms"] == 3
    assert "per sample" not in register("--no-budget")
    assert json.loads(run("status", "--json"))["cohorts"][0]["cohort"]["budget_ms"] is None
    assert "every policy meets the budget, full depth too" in register("--budget-ms", 4)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "0.5"])
def test_a_budget_that_makes_no_sense_is_refused_in_one_line(register, value):
    with pytest.raises(FittingError, match=f"a budget of {value} ms") as caught:
        register("--budget-ms", value)
    assert "\n" not in str(caught.value)


def test_both_options_at_once_are_refused(register):
    with pytest.raises(ConfigError, match="--budget-ms 3 and --no-budget exclude each other"):
        register("--budget-ms", 3, "--no-budget")


def test_explain_and_status_say_that_the_budget_is_not_met_and_what_is_missing(database, register, run, measured):
    register("--budget-ms", 1.2)
    watching = new_watcher(database)
    watching.check(now=NOW)
    ingest(
        database,
        state_of(measured.digest),
        profile_of(measured.digest, (1.0, 2.0, 8.0)),
        report_of(measured.digest, sequence=1, counts=(50, 100, 50)),
        *audits_of(measured, 300, seed=11),
        now=NOW,
    )
    restarted = new_watcher(database)
    restarted.check(now=NOW)
    lines = {line.split()[0]: line.partition(" ")[2].strip() for line in run("explain", COHORT).splitlines() if line}
    assert lines["costs"] == "1 / 2 / 8 ms (measured by 1 device)"
    assert lines["budget"].startswith("1.2 ms per sample, not met: the policy costs ")
    assert "no policy under test can be certified" in lines["budget"] or "are missing to certify" in lines["budget"]
    assert "costs 3.25 ms per sample, its budget is 1.2 ms" in run("status")
    assert "costs changed" in run("history", "--cohort", COHORT)
