"""Renders a latency profile as one self-contained HTML page, for `edgeexit profile --plot`."""

from collections.abc import Sequence
from typing import Final

from edgeexit.formatting import milliseconds, percent
from edgeexit.latency import Drift, LatencyProfile, LatencySummary
from edgeexit.report.page import Chart, KeyFigure, Section, Table, render_page
from edgeexit.report.profile_figures import draw_distribution, draw_time_per_part, draw_timeline, sensor_series
from edgeexit.telemetry import SensorRange, Telemetry

_PARTS: Final = (
    "Readouts compute softmax, the two highest probabilities and the entropy; their latency is the difference between "
    "each stage with and without them. Decisions are the policy's. Overhead is checking inputs, passing tensors "
    "between stages, and collecting the results."
)
_NO_READOUTS: Final = "The latency of the readouts cannot be measured on this runtime; it is part of the stages."
_PERCENTILES: Final = (
    "p50 is the median. p90 and p99 are the early-stopping estimates of MLPerf LoadGen: with 99 % confidence the true "
    "percentiles are not higher. p90 needs at least 64 samples, p99 at least 662."
)


def render_profile_page(profile: LatencyProfile, model: str, exits: Sequence[str]) -> bytes:
    """Return the page as UTF-8 HTML; it loads nothing from elsewhere.

    Args:
        profile: a measured profile. Without raw samples, as in a profile from a device, two charts are omitted.
        model: name of the model.
        exits: names [K] of the exits.

    """
    setting = f"{profile.machine}, {profile.runtime}, {profile.threads or 'all'} thread(s), batch {profile.batch}."
    invalid = f" Invalid, not usable as costs: {'; '.join(profile.invalid)}." if profile.invalid else ""
    sections = (
        _latency_per_part(profile, exits),
        _distribution(profile),
        _timeline(profile),
        _latencies(profile, exits),
        _machine(profile),
    )
    return render_page(
        title=f"{model}: latency",
        subtitle=f"{setting}{invalid}",
        key_figures=_key_figures(profile),
        sections=[section for section in sections if section is not None],
    )


def _key_figures(profile: LatencyProfile) -> list[KeyFigure]:
    all_stages = KeyFigure(value=milliseconds(profile.cumulative_ms[-1]), meaning="mean latency of all stages together")
    if profile.end_to_end is None:
        return [all_stages]
    end_to_end = profile.end_to_end
    key_figures = [
        KeyFigure(value=milliseconds(end_to_end.mean_ms), meaning=f"mean latency with policy {profile.policy}"),
        KeyFigure(value=milliseconds(end_to_end.p99_ms), meaning="p99 with this policy, estimate of MLPerf"),
        all_stages,
    ]
    if (energy := profile.energy_per_inference_mj) is not None:
        key_figures.append(KeyFigure(value=f"{energy:.2f} mJ", meaning="energy of the entire board per inference"))
    return key_figures


def _latency_per_part(profile: LatencyProfile, exits: Sequence[str]) -> Section:
    with_policy = "The bars show the mean latency of the samples that exit at each exit, measured with the policy."
    without_policy = (
        "The bars show the sum of the mean latencies of the stages up to each exit, measured without a policy."
    )
    unknown = any(stage.readout_ms is None for stage in profile.stages)
    return Section(
        title="Latency per part",
        texts=(with_policy if profile.paths else without_policy,),
        charts=(
            Chart(
                name="where",
                figure=draw_time_per_part(profile, exits),
                description="latency of each part, per exit",
            ),
        ),
        notes=(_PARTS, _NO_READOUTS) if unknown else (_PARTS,),
    )


def _distribution(profile: LatencyProfile) -> Section | None:
    figure = draw_distribution(profile)
    if figure is None:
        return None
    return Section(
        title="Distribution of latencies",
        texts=(
            (
                "The curves show the fraction of runs that take at least a given latency, on two logarithmic axes. A "
                "steep curve means a stable latency."
            ),
        ),
        charts=(Chart(name="spread", figure=figure, description="fraction of runs above each latency, per stage"),),
        notes=("The chart contains at most a thousand samples per stage, evenly distributed over the run.",),
    )


def _timeline(profile: LatencyProfile) -> Section | None:
    figure = draw_timeline(profile)
    if figure is None:
        return None
    scale = "The latency axis is logarithmic."
    return Section(
        title="Latency over the run",
        texts=(scale,) if profile.drift is None else (_drift(profile.drift), scale),
        charts=(
            Chart(name="run", figure=figure, description="latency over the run, and readings of the board's sensors"),
        ),
        notes=() if sensor_series(profile.readings) else ("The board has no readable sensors.",),
    )


def _drift(drift: Drift) -> str:
    verdict = "the speed of the machine drifted" if drift.drifted else "no drift beyond noise and 5 %"
    return (
        "In the last quarter of the run, the first stage, which every inference runs, took "
        f"{drift.ratio:.3f} times as long as in the first quarter ({drift.low:.3f} to {drift.high:.3f}): {verdict}."
    )


def _latencies(profile: LatencyProfile, exits: Sequence[str]) -> Section:
    rows = [
        (
            stage.name,
            *_cells(stage.latency),
            milliseconds(stage.readout_ms),
            milliseconds(None if stage.decision is None else stage.decision.mean_ms),
        )
        for stage in profile.stages
    ]
    if profile.end_to_end is not None:
        rows.append((f"end to end, {profile.policy}", *_cells(profile.end_to_end), "-", "-"))
    rows += [
        (f"exits at {path.exit}", *_cells(path.latency), "-", milliseconds(path.decisions_ms)) for path in profile.paths
    ]
    texts: tuple[str, ...] = ()
    if profile.exit_rates is not None:
        mix = ", ".join(f"{name} {percent(rate)}" for name, rate in zip(exits, profile.exit_rates, strict=True))
        texts = (f"Exit mix: {mix}.",)
    columns = ("", "mean", "p50", "p90", "p99", "samples", "readout", "decisions")
    return Section(
        title="Latencies", texts=texts, tables=(Table(columns=columns, rows=tuple(rows)),), notes=(_PERCENTILES,)
    )


def _cells(latency: LatencySummary) -> tuple[str, ...]:
    values = (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)
    return (*map(milliseconds, values), f"{latency.samples:,}")


def _machine(profile: LatencyProfile) -> Section:
    cold = profile.settings.get("cold load")
    settings = {
        "cold load": milliseconds(profile.cold_load_ms) + ("" if cold is None else f", {cold}"),
        "first run": milliseconds(profile.first_run_ms),
        **{name: value for name, value in profile.settings.items() if name != "cold load"},
        **({} if profile.load is None else {"load": str(profile.load)}),
        **{f"warning {number}": warning for number, warning in enumerate(profile.warnings, 1)},
    }
    tables = [Table(columns=("", ""), rows=tuple(settings.items()))]
    if (telemetry := profile.telemetry) is not None and (rows := _sensor_rows(telemetry)):
        tables.append(Table(columns=("sensor", "mean", "min", "max"), rows=rows))
    return Section(title="Machine", texts=() if telemetry is None else (_board_state(telemetry),), tables=tuple(tables))


def _board_state(telemetry: Telemetry) -> str:
    state = {
        True: f"throttled ({'; '.join(telemetry.reasons)})",
        False: "not throttled",
        None: "throttling unknown",
    }
    return (
        f"Board: {state[telemetry.throttled]}; {telemetry.readings} sensor readings over {telemetry.seconds:.1f} s, "
        f"{telemetry.reading_ms:.2f} ms per reading."
    )


def _sensor_rows(telemetry: Telemetry) -> tuple[tuple[str, ...], ...]:
    groups = {
        "°C": telemetry.temperatures_c,
        "mW": telemetry.power_mw,
        "MHz": telemetry.clocks_mhz,
        "rpm": telemetry.fans_rpm,
    }
    return tuple(
        (name, *_range_cells(values, unit)) for unit, group in groups.items() for name, values in group.items()
    )


def _range_cells(values: SensorRange | None, unit: str) -> tuple[str, str, str]:
    if values is None:
        return ("not readable", "-", "-")
    return (f"{values.mean:g} {unit}", f"{values.min:g} {unit}", f"{values.max:g} {unit}")
