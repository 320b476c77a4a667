"""`edgeexit calibrator set-aside`, on SQLite and on PostgreSQL."""

import json

import pytest
from edgeexit_calibration import DeviceError, NameLookupError, device_events
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from tests.calibration.recalibrate.watching import ingest
from tests.calibration.scenario import COHORT, DEVICE, state_of


@pytest.fixture
def invoke(database, database_url):
    """Return a function that runs a command and returns its output."""
    for number in range(1, 4):
        ingest(database, state_of("d" * 64), device=DEVICE._replace(device=f"camera-{number}"))

    def run(*arguments):
        arguments = [*arguments, "--database", database_url]
        return CliRunner().invoke(calibrator_app, arguments, catch_exceptions=False).output

    return run


def test_a_device_is_set_aside_listed_and_taken_back(database, invoke):
    output = invoke("set-aside", "camera-1")
    assert "shop/s0/camera-1 is set aside" in output
    assert "next: edgeexit calibrator set-aside shop/s0/camera-1 --back" in output
    [listed] = [json.loads(line) for line in invoke("devices", "--trouble", "set aside", "--json").splitlines()]
    assert listed["device"] == "camera-1"
    assert listed["set_aside_at"] is not None
    assert "set aside shop/s0/camera-1: its audits do not count since" in " ".join(invoke("status").split())
    assert "counts again" in invoke("set-aside", "s0/camera-1", "--back")
    assert invoke("devices", "--trouble", "set aside", "--json") == ""
    assert [event.kind for event in device_events(database)] == ["set aside", "taken back"]
    [row] = [line for line in invoke("history", "--cohort", COHORT).splitlines() if line.startswith("| set aside")]
    assert "device: shop/s0/camera-1" in row


def test_what_is_not_possible_is_one_line(invoke):
    for arguments, error, text in (
        (("camera-7",), NameLookupError, "device 'camera-7' is unknown"),
        (("camera-1", "--back"), DeviceError, "device 'shop/s0/camera-1' is not set aside; its audits count"),
    ):
        with pytest.raises(error, match=text) as raised:
            invoke("set-aside", *arguments)
        assert "\n" not in str(raised.value)
    invoke("set-aside", "camera-1")
    with pytest.raises(DeviceError, match="1 of the 3 devices of its cohort are, and at least half must count"):
        invoke("set-aside", "camera-2")
