"""The page of a latency profile, from a synthetic profile."""

import pytest
from plotly.offline import get_plotlyjs

from edgeexit.latency import Drift, ExitPath, LatencyProfile, ProfilePhase, StageProfile, summarise
from edgeexit.report.profile_figures import draw_distribution, draw_time_per_part, draw_timeline
from edgeexit.report.profile_page import render_profile_page
from edgeexit.telemetry import MachineLoad, Reading, SensorRange, Telemetry

EXITS = ("first <b>", "last")


def stage(name, ms, readout_ms=0.01):
    return StageProfile(
        name=name, latency=summarise([ms] * 700), raw_us=(round(1000 * ms),) * 700, readout_ms=readout_ms,
        readout_interval_ms=None if readout_ms is None else (readout_ms, readout_ms), decision=summarise([0.002] * 70),
    )  # fmt: skip


def path(name, ms, samples, **parts):
    return ExitPath(exit=name, latency=summarise([ms] * samples), **parts)


def profile(**changes):
    fields = {
        "bundle": "0" * 64, "machine": "aarch64 <script>", "runtime": "onnxruntime 1.23.2", "threads": 4, "batch": 1,
        "cold_load_ms": 30.0, "first_run_ms": 4.0, "stages": (stage("s0", 0.5), stage("s1", 0.7)),
        "end_to_end": summarise([0.6] * 700), "policy": "beem", "exit_rates": (0.75, 0.25),
        "end_to_end_raw_us": (600,) * 700,
        "paths": (
            path(EXITS[0], 0.51, 525, stages_ms=(0.5,), decisions_ms=0.002, overhead_ms=0.008),
            path(EXITS[1], 1.22, 175, stages_ms=(0.5, 0.7), decisions_ms=0.004, overhead_ms=0.016),
        ),
        "drift": Drift(ratio=1.2, low=1.1, high=1.3, drifted=True),
        "phases": (
            ProfilePhase(name="stages", start_s=0.2, end_s=3.2),
            ProfilePhase(name="end to end", start_s=3.4, end_s=6.4),
        ),
        "settings": {"governor": "schedutil", "cold load": "files in the page cache"},
        "telemetry": Telemetry(
            probe="jetson", readings=3, seconds=6.5, reading_ms=1.5, throttled=False, total_rail="VDD_IN",
            energy_mj=30_000.0,
            temperatures_c={"cpu-thermal": SensorRange(min=50, mean=52.5, max=55), "cv0-thermal": None},
        ),
        "readings": tuple(
            Reading(monotonic_s=float(second), temperatures_c={"cpu-thermal": 50.0 + second, "cv0-thermal": None})
            for second in range(6)
        ),
        "energy_per_inference_mj": 3.2,
    }  # fmt: skip
    return LatencyProfile(**fields | changes)


def page(found):
    return render_profile_page(found, "a model", EXITS).decode().replace(get_plotlyjs(), "")


def test_the_page_has_every_section_and_names_are_escaped():
    text = page(profile())
    for heading in ("Latency per part", "Distribution of latencies", "Latency over the run", "Latencies", "Machine"):
        assert f"<h2>{heading}</h2>" in text
    for content in (
        "3.20 mJ",
        "1.200 times as long",
        "the speed of the machine drifted",
        "not readable",
        "schedutil",
        "Exit mix: first",
    ):
        assert content in text
    assert "aarch64 &lt;script&gt;" in text
    assert "aarch64 <script>" not in text
    assert "first <b>" not in text


def test_the_bars_add_up_to_the_latency_of_each_exit():
    figure = draw_time_per_part(profile(), EXITS)
    bars = {bar.name: bar.x for bar in figure.data}
    assert list(bars) == ["stages", "readouts", "decisions", "overhead"]
    assert bars["readouts"] == pytest.approx((0.01, 0.02))
    assert [sum(parts) for parts in zip(*bars.values(), strict=True)] == pytest.approx([0.51, 1.22])


def test_without_a_policy_the_bars_are_the_stages_up_to_each_exit():
    without_policy = profile(paths=(), end_to_end=None, policy=None, exit_rates=None, end_to_end_raw_us=())
    bars = {bar.name: bar.x for bar in draw_time_per_part(without_policy, EXITS).data}
    assert bars["stages"] == pytest.approx((0.49, 1.18))
    assert "decisions" not in bars
    assert "measured without a policy" in page(without_policy)


def test_unknown_readout_latencies_are_part_of_the_stages_and_are_mentioned():
    unknown = profile(stages=(stage("s0", 0.5, None), stage("s1", 0.7, None)))
    assert "readouts" not in {bar.name for bar in draw_time_per_part(unknown, EXITS).data}
    assert "cannot be measured on this runtime" in page(unknown)


def test_the_timeline_shows_the_sensors_that_have_values():
    names = [trace.name for trace in draw_timeline(profile()).data]
    assert names == ["all stages", "with the policy", "cpu-thermal"]


def test_latency_axes_are_logarithmic_with_labels_at_1_2_and_5():
    slow = profile(stages=(stage("s0", 0.05), stage("s1", 0.7)), end_to_end_raw_us=(49.0, 50.0, 570.0))
    run, spread = draw_timeline(slow).layout.yaxis, draw_distribution(slow).layout.xaxis
    assert (run.type, spread.type) == ("log", "log")
    assert run.ticktext == spread.ticktext == ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5")
    assert draw_distribution(profile()).layout.xaxis.tickvals is None  # the range is too narrow for these labels


def test_a_profile_without_raw_samples_has_no_distribution_and_no_timeline():
    sent = profile().without_raw()
    assert draw_distribution(sent) is None
    assert draw_timeline(sent) is None
    assert "Latency per part" in page(sent)


def test_an_invalid_profile_is_marked_at_the_top():
    load = MachineLoad(seconds=6, cores=4, own_cores=1, other_cores=3, waited=0.4)
    text = page(profile(invalid=("too hot", "busy"), load=load))
    assert "Invalid, not usable as costs: too hot; busy." in text
    assert "this process used 1.00 of 4 cores, other programs 3.00, waiting for a core 40.0 %<" in text
    assert "td:nth-child(2):last-child { white-space: normal; }" in text, "long values must not hide the short ones"
