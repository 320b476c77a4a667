"""The whole loop, for real: what a new user runs first."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """One run of `edgeexit quickstart --json`: its folder and its figures."""
    folder = tmp_path_factory.mktemp("loop") / "quickstart"
    command = [sys.executable, "-m", "edgeexit", "quickstart", "--out", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout), done.stderr


def test_the_model_is_good_and_early_exits_pay(quickstart):
    _, story, _ = quickstart
    whole = story["evaluations"]["full model"]
    assert whole["accuracy"]["value"] >= 0.97
    for kind in ("confidence", "beem"):
        mean_ms = story["evaluations"][kind]["latency"]["mean_ms"]["value"]
        assert mean_ms < whole["latency"]["mean_ms"]["value"]


def test_drift_breaks_the_certificate_and_the_update_mends_it(quickstart):
    _, story, _ = quickstart
    before, drifted, after = (story["drill"][name] for name in ("before", "drifted", "after"))
    assert [phase["revision"] for phase in (before, drifted, after)] == [1, 1, 2]
    assert before["disagreement"]["low"] <= story["risk"], "the audits before the drift refute the certificate"
    assert drifted["disagreement"]["low"] > story["risk"], "the drift is not beyond doubt"
    assert after["disagreement"]["low"] <= story["risk"]
    assert after["disagreement"]["observed"] < drifted["disagreement"]["observed"]
    early = [phase["mix"]["counts"][0] / phase["mix"]["samples"] for phase in (drifted, after)]
    assert early[1] < early[0], "the new policy should let fewer samples leave at the first exit"


def test_bundle_database_and_report_stay(quickstart):
    folder, _, narration = quickstart
    assert (folder / "bundle" / "manifest.json").is_file()
    assert (folder / "calibrator.sqlite").is_file()
    page = (folder / "quickstart-report.html").read_text()
    assert "updated" in page
    assert 'src="http' not in page, "the report must open offline"
    assert "Before and after" in narration


def test_nothing_is_left_running(quickstart):
    folder, _, _ = quickstart
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            commands.append((process / "cmdline").read_bytes())
    assert commands
    assert not [command for command in commands if str(folder).encode() in command]
