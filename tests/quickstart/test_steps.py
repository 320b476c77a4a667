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


def test_the_drift_exceeds_the_certified_risk_and_every_later_policy_keeps_it(quickstart):
    _, result, _ = quickstart
    demo = result["drift_demo"]
    assert demo["before"]["disagreement"]["low"] <= result["risk"], "the audits before the drift exceed the risk"
    assert demo["drifted"]["disagreement"]["low"] > result["risk"], "the drift is not significant"
    assert demo["stepped_back"]["disagreement"]["observed"] == 0, "at full depth, no prediction differs"
    assert demo["end"]["disagreement"]["low"] <= result["risk"]


def test_after_the_step_back_boldness_comes_back_within_the_stream(quickstart):
    _, result, _ = quickstart
    demo = result["drift_demo"]
    final = {name: demo[name]["mix"]["counts"][-1] / demo[name]["mix"]["samples"] for name in ("stepped_back", "end")}
    assert final["stepped_back"] == 1
    assert final["end"] < 0.6
    changes = [revision["reason"].partition(":")[0] for revision in demo["revisions"]]
    assert changes[-1] == "bolder"
    assert changes.index("stepped back") < len(changes) - 1
    assert [revision["revision"] for revision in demo["revisions"]] == list(range(1, len(changes) + 1))


def test_bundle_database_and_report_remain(quickstart):
    folder, _, output = quickstart
    assert (folder / "bundle" / "manifest.json").is_file()
    assert (folder / "calibrator.sqlite").is_file()
    page = (folder / "quickstart-report.html").read_text()
    assert "at the end" in page
    assert 'src="http' not in page, "the report must open offline"
    assert "Before the drift and after it" in output


def test_no_process_is_left_running(quickstart):
    folder, _, _ = quickstart
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            commands.append((process / "cmdline").read_bytes())
    assert commands
    assert not [command for command in commands if str(folder).encode() in command]
