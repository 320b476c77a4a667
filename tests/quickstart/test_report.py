"""The quickstart's report, from synthetic results."""

import json
import re

from edgeexit_calibration import Disagreement, ExitMix
from plotly.offline import get_plotlyjs

from edgeexit.latency import LatencyProfile, LatencySummary, StageProfile
from edgeexit.quickstart.drift_demo import DriftDemoResult
from edgeexit.quickstart.monitor import PhaseResult, RevisionResult, TimelinePoint
from edgeexit.quickstart.report import QuickstartResult, write_report
from edgeexit.runtime import Evaluation
from edgeexit.runtime.evaluation import LatencyFigures
from edgeexit.runtime.intervals import Interval


def figure(value):
    return Interval(value=value, low=value * 0.98, high=value * 1.02)


def phase(name, revision, observed, counts):
    measured = Disagreement(
        samples=200, disagreeing=int(200 * observed), observed=observed, low=observed / 2, high=observed * 2,
        confidence=0.95,
    )  # fmt: skip
    return PhaseResult(
        name=name, revision=revision, disagreement=measured, mix=ExitMix(samples=sum(counts), counts=counts)
    )


def stage(name, mean_ms):
    summary = LatencySummary(samples=500, mean_ms=mean_ms, p50_ms=mean_ms, p90_ms=mean_ms * 1.3, p99_ms=None)
    return StageProfile(name=name, latency=summary)


def quickstart_result():
    latency = LatencyFigures(mean_ms=figure(0.12), p50_ms=figure(0.1), p90_ms=None, p99_ms=None)
    evaluation = Evaluation(
        samples=400, accuracy=figure(0.97), agreement=figure(0.96),
        exit_rates=(figure(0.6), figure(0.2), figure(0.2)), latency=latency, speedup=figure(1.4),
        layer_speedup=figure(1.6),
    )  # fmt: skip
    timeline = tuple(
        TimelinePoint(
            seconds=float(s), agreement=0.97 if not 20 < s < 35 else 0.85, rates=(0.6, 0.3, 0.1), revision=1,
            reported=60 * s, audited=18 * s,
        )
        for s in range(2, 60)
    )  # fmt: skip
    revisions = tuple(
        RevisionResult(revision=number, seconds=seconds, reason=reason, samples=200)
        for number, seconds, reason in (
            (1, -3.0, "registered"), (2, 36.0, "stepped back: an alarm"), (3, 44.5, "bolder: certified")
        )
    )  # fmt: skip
    demo = DriftDemoResult(
        before=phase("before", 1, 0.02, (120, 50, 30)), drifted=phase("after the change", 1, 0.14, (90, 60, 50)),
        stepped_back=phase("stepped back", 2, 0.01, (20, 40, 140)), end=phase("at the end", 3, 0.03, (40, 60, 100)),
        revisions=revisions, timeline=timeline, drift_s=20.0, mean_device_latency_ms=0.4,
    )  # fmt: skip
    profile = LatencyProfile(
        bundle="0" * 64, machine="x86_64, a processor", runtime="onnxruntime 1.23.2", threads=1, batch=1,
        cold_load_ms=10.0, first_run_ms=1.0, stages=(stage("s0", 0.08), stage("s1", 0.05), stage("s2", 0.07)),
    )  # fmt: skip
    return QuickstartResult(
        model="digits <b>&", exits=("e0", "e1", "e2"), policy="beem", risk=0.05, delta=0.1,
        evaluations={"full model": evaluation, "beem": evaluation}, profile=profile, drift_demo=demo,
    )  # fmt: skip


def test_the_page_contains_all_results_and_loads_nothing(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, quickstart_result())
    page = path.read_text().replace(get_plotlyjs(), "")
    for name in ("timeline", "mix", "stages"):
        assert f'id="{name}"' in page
    assert "<td>at the end</td><td>3</td><td>97.0 %</td>" in page
    assert "digits &lt;b&gt;&amp;" in page
    assert "certified for an agreement of at least 95" in page
    assert not re.findall(r"https?:|@import|url\(|<link|\bsrc=", page)


def test_the_page_shows_every_revision_when_it_was_created_and_why(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, quickstart_result())
    page = path.read_text().replace(get_plotlyjs(), "")
    for cells in (
        ("1", "before the start", "200", "registered"),
        ("2", "36 s", "200", "stepped back: an alarm"),
        ("3", "44 s", "200", "bolder: certified"),
    ):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    drawn = {shape["x0"] for shape in timeline_layout(page)["shapes"] if shape["line"].get("dash") == "dot"}
    assert drawn == {36.0, 44.5}


def timeline_layout(page):
    """Return the layout that the page gives to plotly for the timeline: the second argument after the id."""
    call = re.search(r'Plotly\.newPlot\(\s*"timeline",\s*', page)
    _, end = json.JSONDecoder().raw_decode(page, call.end())
    return json.JSONDecoder().raw_decode(page, page.index("{", end))[0]
