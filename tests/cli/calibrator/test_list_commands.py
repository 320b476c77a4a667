"""The commands `devices`, `trend` and `history`, and the size of what `status` prints."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from edgeexit_calibration import open_database
from edgeexit_calibration.store.cohorts import add_event, find_cohort
from edgeexit_calibration.store.tables import CohortBucketRow
from edgeexit_calibration.store.troubles import Trouble
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import EdgeExitError
from tests.calibration.views.filled import ADDRESS, add_device, counts_at

NOW = datetime.now(timezone.utc)


@pytest.fixture
def path(tmp_path):
    """Return a database with 300 devices in trouble, a cohort with counts of three hours, and events."""
    file = tmp_path / "calibrator.sqlite"
    store = open_database(str(file))
    with store.writing() as session:
        for number in range(300):
            device = add_device(
                session, f"camera-{number:03}", online=number % 2 == 0, troubles=Trouble.LOSSES, losses={"full": 1},
                losses_at=NOW, last_seen=NOW,
            )  # fmt: skip
            add_event(session, None, "clone", {"n": number}, actor="calibrator", now=NOW, device_id=device.id)
        cohort = find_cohort(session, ADDRESS)
        for hours in (1, 2, 3):
            begin_s = int((NOW - timedelta(hours=hours)).timestamp()) // 900 * 900
            session.add(
                CohortBucketRow(
                    cohort_id=cohort.id, width_s=900, begin_s=begin_s, revision=hours, writer="",
                    counts=counts_at((50, 30, 20)),
                )
            )  # fmt: skip
    store.close()
    return file


def invoke(path, *arguments):
    """Run a command in this process; raise its error as the entry point of the CLI receives it."""
    command, *rest = arguments
    result = CliRunner().invoke(
        calibrator_app, [command, "--database", str(path), *map(str, rest)], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.output


def test_status_counts_devices_and_names_three_of_each_kind(path):
    shown = invoke(path, "status")
    assert len(shown.splitlines()) < 30
    assert "shop: 300 devices, 150 online, 0 up to date; 1 cohort" in shown
    assert "losses (300)" in shown
    assert "and 297 more: edgeexit calibrator devices --trouble 'losses'" in shown
    found = json.loads(invoke(path, "status", "--json"))
    assert found["attention_counts"] == {"no calibrator": 1, "losses": 300}
    assert [item["kind"] for item in found["attention"]] == ["no calibrator", *["losses"] * 3]
    assert (found["cohorts"][0]["cohort"]["devices"], found["cohorts_total"]) == (300, 1)
    assert json.loads(invoke(path, "status", "--json", "--cohorts", 0))["cohorts"] == []


def test_devices_are_chosen_by_conditions_and_shown_page_by_page(path):
    first = invoke(path, "devices", "--offline", "--limit", 2)
    assert [name in first for name in ("camera-001", "camera-003", "camera-005")] == [True, True, False]
    assert "--after shop/s0/camera-003" in first
    lines = invoke(path, "devices", "--after", "shop/s0/camera-297", "--trouble", "losses", "--json").splitlines()
    assert [json.loads(line)["device"] for line in lines] == ["camera-298", "camera-299"]
    assert "no device meets the conditions" in invoke(path, "devices", "--prefix", "x")
    assert "camera-010" in invoke(path, "devices", "--cohort", "cameras", "--prefix", "camera-01")


def test_all_devices_are_printed_one_per_line(path):
    assert len(invoke(path, "devices", "--all", "--online").splitlines()) == 150
    lines = invoke(path, "devices", "--all", "--json").splitlines()
    assert [json.loads(line)["device"] for line in lines] == [f"camera-{number:03}" for number in range(300)]


def test_a_trend_has_a_bar_and_its_json_has_the_latency_of_every_exit(path):
    shown = invoke(path, "trend", "--cohort", "cameras", "--step", "15m")
    assert shown.count("00000000001111112222") == 3
    assert "50.0 % / 30.0 % / 20.0 %" in shown
    found = json.loads(invoke(path, "trend", "--cohort", "shop/cameras", "--revision", 2, "--json"))
    [point] = found["points"]
    assert (point["samples"], point["exited"], point["span_s"]) == (100, [50, 30, 20], 3600)
    assert all(latency["p50_ms"] > 0 for latency in point["exit_latency"])
    assert "no samples in the last 24h" in invoke(path, "trend", "--device", "camera-000")
    assert "the step is 30 min" in invoke(path, "trend", "--cohort", "cameras", "--step", "16m")


def test_history_shows_the_newest_events(path):
    found = json.loads(invoke(path, "history", "--limit", 2, "--json"))
    assert [event["details"]["n"] for event in found["device_events"]] == [298, 299]
    [event] = json.loads(invoke(path, "history", "--device", "camera-007", "--json"))["device_events"]
    assert event["details"] == {"n": 7}
    only = json.loads(invoke(path, "history", "--cohort", "cameras", "--last", "1h", "--json"))
    assert ([log["cohort"] for log in only["cohorts"]], only["device_events"]) == (["cameras"], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "--fleet", "shpo"), "fleet 'shpo' is unknown; did you mean shop"),
        (("devices", "--fleet", "shpo"), "fleet 'shpo' is unknown; did you mean shop"),
        (("devices", "--cohort", "camera"), "cohort 'camera' is unknown; did you mean cameras"),
        (("devices", "--trouble", "loss"), "trouble 'loss' is unknown; use one of: clone, key changed"),
        (("devices", "--all", "--after", "a/b/c"), "--after cannot be combined with --all"),
        (("devices", "--after", "camera-1"), "device 'camera-1' must be written as FLEET/SHARD/DEVICE"),
        (("trend",), "name either --cohort or --device"),
        (("trend", "--cohort", "cameras", "--last", "1y"), "--last '1y' is no span of time; write e.g. 30m, 24h"),
        (("trend", "--cohort", "cameras", "--step", "0h"), "--step '0h' is no span of time"),
        (("trend", "--device", "camera-0070"), "device 'camera-0070' is unknown: .*did you mean camera-007"),
        (("history", "--device", "nobody"), "device 'nobody' is unknown"),
    ],
)
def test_a_name_or_a_span_that_is_unknown_is_an_error_with_a_remedy(path, arguments, message):
    with pytest.raises(EdgeExitError, match=message):
        invoke(path, *arguments)
