"""`edgeexit calibrator explain`, on SQLite and on PostgreSQL."""

import json
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from edgeexit_calibration import (
    ExplanationError,
    NameLookupError,
    PolicyBounds,
    register,
    set_bounds,
    set_device_aside,
)
from typer.testing import CliRunner

from edgeexit.bundle import Bundle
from edgeexit.cli.calibrator import calibrator_app
from edgeexit.cli.calibrator.explain_command import duration
from tests.calibration.recalibrate.watching import GOAL, check_all, ingest, new_watcher
from tests.calibration.scenario import COHORT, DEVICE, audits_of, state_of

NOW = datetime.now(timezone.utc) - timedelta(minutes=10)


def explain(url, *arguments):
    """Run the command in this process; raise its error as the entry point of the CLI receives it."""
    arguments = ["explain", *arguments, "--database", url]
    return CliRunner().invoke(calibrator_app, arguments, catch_exceptions=False).output


def lines_of(output):
    """Return the text of each labelled line."""
    labels = ("policy", "cost", "budget", "bolder", "alarm", "bounds", "devices", "audits", "changes")
    return {line.split()[0]: line.partition(" ")[2].strip() for line in output.splitlines() if line.startswith(labels)}


@pytest.fixture
def cohort(database, bundle):
    return register(database, bundle, cohort=COHORT, **GOAL).cohort


def test_the_lines_say_what_is_in_force_what_it_costs_and_when_it_changes(database, database_url, bundle, cohort):
    watching = new_watcher(database)
    watching.check(now=NOW)
    ingest(database, *audits_of(bundle, 600, seed=11), now=NOW)
    watching.check(now=NOW)
    output = explain(database_url, COHORT)
    assert f"{cohort}: with confidence 90.0 %, at most 10.0 % of the predictions differ" in output
    lines = lines_of(output)
    assert lines["policy"].startswith("revision 1 since ")
    assert "by ada: registered; certificate: " in lines["policy"]
    assert " of full depth on the audits since the last alarm or registration (600)" in lines["cost"]
    assert "audits" in lines["bolder"]
    assert lines["alarm"].startswith("within ")
    assert "min at the recent rate)" in lines["alarm"]
    assert "changes" not in lines
    assert f"next: edgeexit calibrator history --cohort {cohort}" in output


def test_after_a_drift_the_lines_name_the_step_back_and_the_missing_audits(database, database_url, bundle, cohort):
    watching = new_watcher(database)
    watching.check(now=NOW)
    audits = iter(audits_of(bundle, 3000, trust=0.5, seed=12, size=10))
    while "stepped back" not in (lines_of(explain(database_url, COHORT))["policy"]):
        ingest(database, next(audits), now=NOW)
        watching.check(now=NOW)
    lines = lines_of(explain(database_url, f"shop/{COHORT}"))
    assert "stepped back: disagreement above 10 % since audit" in lines["policy"]
    assert "by ada: registered" in lines["changes"]
    assert lines["cost"].startswith("100.0 % of full depth")
    assert "are missing to certify it" in lines["bolder"]
    assert lines["alarm"] == "none: at full depth, no predictions differ from the final exit's"


def test_a_raised_audit_fraction_is_named_with_its_end(database, database_url, bundle, cohort):
    ingest(database, state_of(bundle.digest, audit_fraction=0.01), now=NOW)
    watching = new_watcher(database)
    watching.check(now=NOW)
    assert "audits" not in lines_of(explain(database_url, COHORT))
    ingest(database, *audits_of(bundle, 200, trust=0.3, seed=12), now=NOW)
    watching.check(now=NOW)
    text = lines_of(explain(database_url, COHORT))["audits"]
    assert text.startswith("raised since the alarm: 5.0 % of the samples, at most the max_audit_fraction of each")
    found = json.loads(explain(database_url, COHORT, "--json"))
    assert found["policy"]["audit"] == {"fraction": 0.05}
    assert f"for {found['raised_audits_end_in']:,} audits" in text


def test_the_lines_name_the_bound_that_holds_the_policy_back(database, database_url, bundle, cohort):
    watching = new_watcher(database)
    watching.check(now=NOW)
    ingest(database, *audits_of(bundle, 1500, seed=11), now=NOW)
    check_all(watching, now=NOW)
    assert "bounds" not in lines_of(explain(database_url, COHORT))
    set_bounds(database, COHORT, PolicyBounds(min_final_exits=0.95), user="ada", now=NOW)
    check_all(watching, now=NOW)
    lines = lines_of(explain(database_url, COHORT))
    assert "the bound --min-final-exits holds it back" in lines["bolder"]
    assert lines["bounds"] == "at least 95.0 % of the samples reach the final exit"
    set_bounds(database, COHORT, PolicyBounds(frozen=True), user="ada", now=NOW)
    assert "the bound --frozen holds it back" in lines_of(explain(database_url, COHORT))["bolder"]
    set_bounds(database, COHORT, PolicyBounds(max_changes_per_day=0), user="ada", now=NOW)
    assert "--max-changes-per-day holds it back" in lines_of(explain(database_url, COHORT))["bolder"]
    set_bounds(database, COHORT, PolicyBounds(min_gain=0.9), user="ada", now=NOW)
    assert "--min-gain holds it back" in lines_of(explain(database_url, COHORT))["bolder"]
    set_bounds(database, COHORT, PolicyBounds(), user="ada", now=NOW)
    assert "is certified and follows" in lines_of(explain(database_url, COHORT))["bolder"]


def test_the_lines_name_the_devices_that_are_set_aside(database, database_url, bundle, cohort):
    new_watcher(database).check(now=NOW)
    for name in ("camera-1", "camera-2"):
        ingest(database, state_of(bundle.digest), device=DEVICE._replace(device=name), now=NOW)
    set_device_aside(database, "camera-2", user="ada", now=NOW)
    line = lines_of(explain(database_url, COHORT))["devices"]
    assert line.startswith("shop/s0/camera-2 is set aside since 20")
    assert line.endswith("UTC by ada")


def test_the_lines_of_a_bound_on_the_regret_name_the_audits_with_a_label(database, database_url, bundle, cohort):
    register(database, bundle, cohort=COHORT, **GOAL, loss="regret")
    new_watcher(database).check(now=NOW)
    ingest(database, *audits_of(bundle, 200, seed=11), now=NOW)
    lines = lines_of(explain(database_url, COHORT))
    assert lines["cost"].startswith("not known yet: no audit with a label has arrived")
    assert " audits with a label" in lines["alarm"]


@pytest.mark.parametrize(("task", "unit"), [("segmentation", "pixels"), ("tagging", "tokens")])
def test_the_loss_of_maps_is_a_fraction_of_their_pixels_or_tokens(database, database_url, bundle, task, unit):
    replace, shape = msgspec.structs.replace, ("batch", 4, "height", "width")
    stages = tuple(replace(stage, exit=replace(stage.exit, shape=shape)) for stage in bundle.manifest.stages)
    of_maps = Bundle(bundle.path, replace(bundle.manifest, task=task, stages=stages), bundle.digest)
    register(database, of_maps, cohort=COHORT, **GOAL)
    new_watcher(database).check(now=NOW)
    output = explain(database_url, COHORT)
    assert f"at most 10.0 % of the {unit} differ from the final exit's" in output
    assert f"if 20.0 % of the {unit} differ from the final exit's" in lines_of(output)["alarm"]


def test_json_has_the_same_figures(database, database_url, bundle, cohort):
    watching = new_watcher(database)
    watching.check(now=NOW)
    ingest(database, *audits_of(bundle, 600, seed=11), now=NOW)
    found = json.loads(explain(database_url, COHORT, "--json"))
    assert (found["fleet"], found["bundle"], found["cohort"]) == tuple(cohort)
    assert found["audits"] == 600
    assert sum(found["exit_rates"]) == pytest.approx(1)
    assert found["policy"]["revision"] == 1
    assert found["changes"][-1] == found["policy"]


def test_an_unknown_name_an_unregistered_and_an_unchecked_cohort_are_errors(database, database_url, bundle):
    ingest(database, state_of(bundle.digest))
    with pytest.raises(NameLookupError, match="cohort 'camera' is unknown; did you mean cameras"):
        explain(database_url, "camera")
    with pytest.raises(ExplanationError, match="is not registered"):
        explain(database_url, COHORT)
    register(database, bundle, cohort=COHORT, **GOAL)
    with pytest.raises(ExplanationError, match="has not checked"):
        explain(database_url, COHORT)
    new_watcher(database).check(now=NOW)
    explain(database_url, COHORT)
    register(database, bundle, cohort=COHORT, **GOAL, loss="regret")
    with pytest.raises(ExplanationError, match=r"since it was registered with the regret 0.1 and delta 0.1"):
        explain(database_url, COHORT)


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.001, "4 s"),
        (0.02, "1 min"),
        (0.5, "30 min"),
        (1.0, "1.0 h"),
        (47.9, "47.9 h"),
        (72, "3 days"),
        (72_000, "3,000 days"),
    ],
)
def test_a_duration_has_one_unit(hours, text):
    assert duration(hours) == text
