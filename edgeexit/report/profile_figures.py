"""The charts of a latency profile: time per part, distribution of latencies, latency over the run."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edgeexit.latency import LatencyProfile, ProfilePhase, StageProfile
from edgeexit.report.fit_figures import exit_colours
from edgeexit.report.page import COLOURS, GREY, NAME_AXIS, escape_label, set_style
from edgeexit.telemetry import Reading

_ABOVE: Final = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0, "traceorder": "normal"}
_US_PER_MS: Final = 1e3
_ROW: Final = 46
"""Height of a bar with its space, in pixels."""
_WIDE: Final = 5
"""Ratio of the largest to the smallest value from which an axis has labels at 1, 2 and 5."""
_MIN_FRACTION: Final = 1e-3
"""Lower end of the axis of fractions of runs."""
_FRACTIONS: Final = {1.0: "100%", 0.5: "50%", 0.1: "10%", 0.01: "1%", 0.001: "0.1%"}


def draw_time_per_part(profile: LatencyProfile, exits: Sequence[str]) -> go.Figure:
    """Return one stacked bar per exit: stages, readouts, decisions, overhead; without a policy, stages and readouts."""
    if profile.paths:
        rows = [(path.exit, path.stages_ms, path.decisions_ms, path.overhead_ms) for path in profile.paths]
    else:
        means = [stage.latency.mean_ms for stage in profile.stages]
        rows = [(name, tuple(means[: k + 1]), 0.0, 0.0) for k, name in enumerate(exits)]
    parts: dict[str, list[float]] = {"stages": [], "readouts": [], "decisions": [], "overhead": []}
    for _, stages, decisions, overhead in rows:
        # The measured difference can be slightly negative, but a bar must not be.
        readouts = sum(max(stage.readout_ms or 0.0, 0.0) for stage in profile.stages[: len(stages)])
        parts["stages"].append(sum(stages) - readouts)
        parts["readouts"].append(readouts)
        parts["decisions"].append(decisions)
        parts["overhead"].append(overhead)
    figure = go.Figure()
    for (part, values), colour in zip(parts.items(), (COLOURS[0], COLOURS[1], COLOURS[2], GREY), strict=True):
        if any(values):
            figure.add_bar(
                y=[escape_label(name, max_length=16) for name, *_ in rows],
                x=values,
                name=part,
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"%{{y}}: {part} %{{x:.4f}} ms<extra></extra>",
            )
    set_style(figure, height=110 + _ROW * len(rows))
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, **NAME_AXIS)
    figure.update_xaxes(title="ms", rangemode="tozero")
    return figure.update_layout(barmode="stack", bargap=0.3, legend=_ABOVE)


def draw_distribution(profile: LatencyProfile) -> go.Figure | None:
    """Return the fraction of runs above each latency, on two logarithmic axes; None without raw samples."""
    series = [(stage.name, stage.raw_us, colour) for stage, colour in _coloured(profile)]
    if profile.end_to_end_raw_us:
        series.append((f"end to end, {profile.policy}", profile.end_to_end_raw_us, GREY))
    if not any(raw for _, raw, _ in series):
        return None
    figure = go.Figure()
    all_values: list[float] = []
    for name, raw, colour in series:
        values = np.sort(np.array(raw)) / _US_PER_MS
        all_values.extend(values.tolist())
        figure.add_scatter(
            x=values.tolist(),
            y=(1 - np.arange(len(values)) / len(values)).tolist(),
            name=escape_label(name, max_length=24),
            mode="lines",
            line={"color": colour, "shape": "hv", "width": 2},
            hovertemplate=f"{escape_label(name)}: %{{y:.1%}} take %{{x:.3f}} ms or longer<extra></extra>",
        )
    set_style(figure, height=380)
    figure.update_xaxes(title="ms", **_logarithmic(all_values))
    figure.update_yaxes(
        title="fraction of runs",
        type="log",
        tickvals=list(_FRACTIONS),
        ticktext=list(_FRACTIONS.values()),
        range=[np.log10(_MIN_FRACTION), 0.05],
    )
    return figure.update_layout(legend=_ABOVE)


def draw_timeline(profile: LatencyProfile) -> go.Figure | None:
    """Return latency over time, and below it the readings of the board's sensors; None without raw samples."""
    phases = {phase.name: phase for phase in profile.phases}
    every_stage = np.array([stage.raw_us for stage in profile.stages]).sum(axis=0)
    runs = [
        (name, raw, phases[phase], colour)
        for name, raw, phase, colour in (
            ("all stages", every_stage, "stages", COLOURS[0]),
            ("with the policy", np.array(profile.end_to_end_raw_us), "end to end", COLOURS[2]),
        )
        if raw.size and phase in phases
    ]
    if not runs:
        return None
    sensors = sensor_series(profile.readings)
    figure = make_subplots(
        rows=1 + len(sensors), shared_xaxes=True, vertical_spacing=0.06, row_heights=[2, *(1 for _ in sensors)]
    )
    for name, raw, phase, colour in runs:
        figure.add_scatter(
            x=_times(phase, raw.size),
            y=(raw / _US_PER_MS).tolist(),
            name=name,
            mode="markers",
            marker={"color": colour, "size": 4, "opacity": 0.5},
            hovertemplate=f"{name}: %{{y:.3f}} ms after %{{x:.2f}} s<extra></extra>",
            row=1,
            col=1,
        )
    for row, (unit, series) in enumerate(sensors.items(), 2):
        for index, (name, values) in enumerate(series.items()):
            figure.add_scatter(
                x=[reading.monotonic_s for reading in profile.readings],
                y=values,
                name=escape_label(name, max_length=20),
                mode="lines+markers+text",
                text=[*("" for _ in values[1:]), escape_label(name, max_length=20)],
                textposition="top left",
                textfont={"size": 11},
                cliponaxis=False,
                line={"color": COLOURS[index % len(COLOURS)], "width": 1.5},
                marker={"size": 4},
                showlegend=False,
                hovertemplate=f"{escape_label(name)}: %{{y:g}} {unit} after %{{x:.1f}} s<extra></extra>",
                row=row,
                col=1,
            )
        highest = max(value for values in series.values() for value in values if value is not None)
        figure.update_yaxes(
            title=unit, rangemode="tozero", autorangeoptions={"include": 1.15 * highest}, row=row, col=1
        )
    set_style(figure, height=300 + 150 * len(sensors))
    # On a linear axis, a single slow run would hide the differences between all others.
    latencies = np.concatenate([raw for _, raw, *_ in runs]) / _US_PER_MS
    figure.update_yaxes(title="ms", **_logarithmic(latencies.tolist()), row=1, col=1)
    figure.update_xaxes(title="seconds", row=1 + len(sensors), col=1)
    return figure.update_layout(legend=_ABOVE)


def sensor_series(readings: Sequence[Reading]) -> dict[str, dict[str, list[float | None]]]:
    """Return unit -> name of a sensor -> its value in each reading; sensors without any value are omitted.

    Sensors with the same values in all readings are combined; the name lists all of them.
    """
    groups = {
        "°C": [reading.temperatures_c for reading in readings],
        "mW": [reading.power_mw for reading in readings],
        "MHz": [reading.clocks_mhz for reading in readings],
    }
    found = {}
    for unit, tables in groups.items():
        names = dict.fromkeys(name for table in tables for name, value in table.items() if value is not None)
        alike: dict[tuple[float | None, ...], list[str]] = {}
        for name in names:
            alike.setdefault(tuple(table.get(name) for table in tables), []).append(name)
        if alike:
            found[unit] = {", ".join(sensors): list(values) for values, sensors in alike.items()}
    return found


def _logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis with labels at 1, 2 and 5 of each decade; for a narrow range, plotly's default."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) < _WIDE * min(positive):
        return {"type": "log"}
    decades = range(math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _coloured(profile: LatencyProfile) -> list[tuple[StageProfile, str]]:
    return list(zip(profile.stages, exit_colours(len(profile.stages)), strict=True))


def _times(phase: ProfilePhase, count: int) -> list[float]:
    """Return the approximate times of `count` samples that are evenly distributed over a phase."""
    return [round(float(at), 4) for at in np.linspace(phase.start_s, phase.end_s, count, endpoint=False)]
