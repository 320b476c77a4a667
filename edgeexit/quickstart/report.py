"""The quickstart's report: one self-contained HTML page with tables, a timeline, the exit mix and stage latencies."""

from pathlib import Path

import msgspec
import plotly.graph_objects as go

from edgeexit.files import write_atomic
from edgeexit.formatting import milliseconds, percent
from edgeexit.latency import LatencyProfile
from edgeexit.quickstart.drift_demo import DriftDemoResult
from edgeexit.report import (
    COLOURS,
    GREY,
    NAME_AXIS,
    Chart,
    Section,
    Table,
    escape_label,
    exit_colours,
    render_page,
    set_style,
)
from edgeexit.runtime import Evaluation

_HEIGHT = 340


class QuickstartResult(msgspec.Struct, frozen=True, kw_only=True):
    """All results of a quickstart."""

    model: str
    exits: tuple[str, ...]
    policy: str
    risk: float
    delta: float
    evaluations: dict[str, Evaluation]
    """`full model` or the kind of a policy -> its evaluation on test samples without drift."""
    profile: LatencyProfile
    drift_demo: DriftDemoResult

    @property
    def caption(self) -> str:
        """The text that explains the table of the three phases."""
        full_ms = self.profile.cumulative_ms[-1]
        text = (
            "Agreement with the final exit and the exit mix (columns with the names of exits) are measured on audited "
            "samples. Stage latency is computed from the profile and the exit mix; the full model takes "
            f"{milliseconds(full_ms)}."
        )
        device_ms = self.drift_demo.mean_device_latency_ms
        if device_ms is not None:
            text += (
                f" The agents, which sleep between samples and share this machine, measured a mean latency of "
                f"{device_ms:.2f} ms."
            )
        return text

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the columns and the rows of the table of the three phases."""
        columns = ("phase", "revision", "agreement", "95 % interval", *self.exits, "stage latency")
        rows = []
        for phase in self.drift_demo.phases:
            measured, rates = phase.disagreement, phase.mix.rates or (0.0,) * len(self.exits)
            rows.append(
                (
                    phase.name,
                    str(phase.revision),
                    "-" if measured.observed is None else percent(1 - measured.observed),
                    f"{100 * (1 - measured.high):.1f} to {percent(1 - measured.low)}",
                    *(percent(rate) for rate in rates),
                    milliseconds(phase.mean_ms(self.profile.cumulative_ms)),
                )
            )
        return columns, rows


def write_report(path: Path, result: QuickstartResult) -> None:
    """Write the page to `path`; an error leaves no partial file."""
    columns, rows = result.table()
    page = render_page(
        title="EdgeExit quickstart",
        subtitle=f"{result.model}: compiled, run by two agents, recalibrated after drift, updated.",
        sections=[
            Section(
                title="Before and after the update",
                tables=(Table(columns=columns, rows=tuple(rows)),),
                notes=(result.caption,),
            ),
            Section(title="Policies on test samples without drift", tables=(_evaluations(result),)),
            Section(
                title="Agreement with the final exit over time",
                texts=(
                    (
                        "The line shows the agreement of the last 100 audited samples. The policy is certified for an "
                        f"agreement of at least {100 * (1 - result.risk):g} %. The calibrator detects that the "
                        "agreement is lower, and refits the policy."
                    ),
                ),
                charts=(Chart(name="timeline", figure=_timeline(result), description="agreement over time"),),
            ),
            Section(
                title="Exit mix",
                texts=("The bars show the fraction of audited samples that exit at each exit, in each phase.",),
                charts=(
                    Chart(name="mix", figure=_mix(result), description="fraction of samples that exit at each exit"),
                ),
            ),
            Section(
                title="Latency of each stage on this machine",
                texts=(
                    f"{result.profile.machine}, {result.profile.runtime}, batch size 1. Bars: p50; grey lines: to p90.",
                ),
                charts=(Chart(name="stages", figure=_stages(result.profile), description="latency of each stage, ms"),),
            ),
        ],
    )
    write_atomic(path, page)


def _evaluations(result: QuickstartResult) -> Table:
    rows = [
        (
            name,
            "-" if evaluation.accuracy is None else percent(evaluation.accuracy.value),
            percent(evaluation.agreement.value),
            *(percent(rate.value) for rate in evaluation.exit_rates),
            milliseconds(evaluation.latency.mean_ms.value),
        )
        for name, evaluation in result.evaluations.items()
    ]
    columns = ("policy", "accuracy", "agreement", *result.exits, "mean latency")
    return Table(columns=columns, rows=tuple(rows))


def _timeline(result: QuickstartResult) -> go.Figure:
    demo = result.drift_demo
    figure = go.Figure()
    seconds = [point.seconds for point in demo.timeline]
    agreement = [point.agreement for point in demo.timeline]
    figure.add_scatter(x=seconds, y=agreement, mode="lines", name="agreement", line={"color": COLOURS[0], "width": 3})
    figure.add_hline(
        y=1 - result.risk,
        line={"dash": "dash", "color": GREY},
        annotation_text="certified",
        annotation_position="bottom right",
    )
    for time_s, text, position in (
        (demo.drift_s, "the data changes", "bottom left"),
        (demo.update_s, "new policy active", "top left"),
    ):
        figure.add_vline(x=time_s, line={"color": COLOURS[3]}, annotation_text=text, annotation_position=position)
    figure.update_yaxes(tickformat=".0%", range=[min(0.8, *agreement) - 0.02, 1.005])
    figure.update_xaxes(title="seconds since the agents started")
    return set_style(figure, height=_HEIGHT)


def _mix(result: QuickstartResult) -> go.Figure:
    figure = go.Figure()
    phases = result.drift_demo.phases[::-1]
    names = [phase.name for phase in phases]
    for k, (exit_name, colour) in enumerate(zip(result.exits, exit_colours(len(result.exits)), strict=True)):
        rates = [(phase.mix.rates or (0.0,) * len(result.exits))[k] for phase in phases]
        figure.add_bar(y=names, x=rates, name=escape_label(exit_name), orientation="h", marker={"color": colour})
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(**NAME_AXIS)
    return set_style(figure, height=_HEIGHT)


def _stages(profile: LatencyProfile) -> go.Figure:
    latencies = [stage.latency for stage in profile.stages]
    above = [(latency.p90_ms or latency.p50_ms) - latency.p50_ms for latency in latencies]
    figure = go.Figure()
    figure.add_bar(
        x=[escape_label(stage.name) for stage in profile.stages],
        y=[latency.p50_ms for latency in latencies],
        error_y={"type": "data", "array": above, "arrayminus": [0] * len(above), "color": GREY},
        marker={"color": COLOURS[0]},
    )
    figure.update_yaxes(title="ms", rangemode="tozero")
    return set_style(figure, height=_HEIGHT)
