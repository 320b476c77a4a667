"""A real run of `edgeexit quickstart`."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Return the folder, the JSON result and the standard error of one run of `edgeexit quickstart --json`."""
    folder = tmp_path_factory.mktemp("loop") / "quickstart"
    command = [sys.executable, "-m", "edgeexit", "quickstart", "--out", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout), done.stderr


def test_the_model_is_accurate_and_early_exits_reduce_the_latency(quickstart):
    _, result, _ = quickstart
    full_model = result["evaluations"]["full model"]
    assert full_model["accuracy"]["value"] >= 0.97
    for kind in ("confidence", "beem"):
        mean_ms = result["evaluations"][kind]["latency"]["mean_ms"]["value"]
        assert mean_ms < full_model["latency"]["mean_ms"]["value"]


def test_the_drift_exceeds_the_certified_risk_and_the_update_restores_it(quickstart):
    _, result, _ = quickstart
    before, drifted, updated = (result["drift_demo"][name] for name in ("before", "drifted", "updated"))
    assert [phase["revision"] for phase in (before, drifted, updated)] == [1, 1, 2]
    assert before["disagreement"]["low"] <= result["risk"], "the audits before the drift exceed the certified risk"
    assert drifted["disagreement"]["low"] > result["risk"], "the drift is not significant"
    assert updated["disagreement"]["low"] <= result["risk"]
    assert updated["disagreement"]["observed"] < drifted["disagreement"]["observed"]
    early = [phase["mix"]["counts"][0] / phase["mix"]["samples"] for phase in (drifted, updated)]
    assert early[1] < early[0], "fewer samples should exit at the first exit after the update"


def test_bundle_database_and_report_remain(quickstart):
    folder, _, output = quickstart
    assert (folder / "bundle" / "manifest.json").is_file()
    assert (folder / "calibrator.sqlite").is_file()
    page = (folder / "quickstart-report.html").read_text()
    assert "updated" in page
    assert 'src="http' not in page, "the report must open offline"
    assert "Before and after" in output


def test_no_process_is_left_running(quickstart):
    folder, _, _ = quickstart
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            commands.append((process / "cmdline").read_bytes())
    assert commands
    assert not [command for command in commands if str(folder).encode() in command]
