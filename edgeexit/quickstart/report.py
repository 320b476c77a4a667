"""The quickstart's report: one self-contained HTML page with tables, a timeline, the exit mix and stage latencies."""

from pathlib import Path

import msgspec
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edgeexit.files import write_atomic
from edgeexit.formatting import milliseconds, percent
from edgeexit.latency import LatencyProfile
from edgeexit.quickstart.drift_demo import DriftDemoResult
from edgeexit.quickstart.monitor import mean_cost
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
_TIMELINE_HEIGHT = 480


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
        """The text that explains the table of the phases."""
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
        """Return the columns and the rows of the table of the phases."""
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
        subtitle=f"{result.model}: compiled, run by two agents, recalibrated after drift.",
        sections=[
            Section(
                title="Before the drift and after it",
                tables=(Table(columns=columns, rows=tuple(rows)),),
                notes=(result.caption,),
            ),
            Section(title="Policies on test samples without drift", tables=(_evaluations(result),)),
            Section(
                title="Agreement and cost over time",
                texts=(
                    (
                        "The lines show the last 100 audited samples: their agreement with the final exit, and their "
                        "stage latency as a fraction of the full model's. The policy is certified for an agreement of "
                        f"at least {100 * (1 - result.risk):g} %. When the agreement is lower, the calibrator steps "
                        "back to full depth. Bolder thresholds follow as soon as the audits certify them, and the "
                        "cost falls. A dotted line with a number marks each new revision."
                    ),
                ),
                charts=(Chart(name="timeline", figure=_timeline(result), description="agreement and cost over time"),),
                tables=(_revisions(result),),
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


def _revisions(result: QuickstartResult) -> Table:
    rows = [
        (
            str(revision.revision),
            "before the start" if revision.seconds < 0 else f"{revision.seconds:.0f} s",
            f"{revision.samples:,}",
            revision.reason,
        )
        for revision in result.drift_demo.revisions
    ]
    return Table(columns=("revision", "created after", "audited samples", "reason"), rows=tuple(rows))


def _timeline(result: QuickstartResult) -> go.Figure:
    demo = result.drift_demo
    cumulative_ms = result.profile.cumulative_ms
    seconds = [point.seconds for point in demo.timeline]
    agreement = [point.agreement for point in demo.timeline]
    cost = [mean_cost(point.rates, cumulative_ms) / cumulative_ms[-1] for point in demo.timeline]
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    for row, (name, values) in enumerate((("agreement", agreement), ("cost", cost)), 1):
        line = {"color": COLOURS[row - 1], "width": 3}
        figure.add_scatter(x=seconds, y=values, mode="lines", name=name, line=line, showlegend=False, row=row, col=1)
    figure.add_hline(
        y=1 - result.risk,
        line={"dash": "dash", "color": GREY},
        annotation_text="certified",
        annotation_position="bottom right",
        row=1,
        col=1,
    )
    figure.add_vline(x=demo.drift_s, line={"color": COLOURS[3]})
    figure.add_annotation(
        x=demo.drift_s, y=0.02, yref="y2 domain", text="the data change", xanchor="right", showarrow=False
    )
    for revision in demo.revisions:
        if revision.seconds > 0:
            figure.add_vline(x=revision.seconds, line={"color": GREY, "dash": "dot", "width": 1})
            figure.add_annotation(
                x=revision.seconds, y=1, yref="y domain", yanchor="bottom", text=str(revision.revision), showarrow=False
            )
    figure.update_yaxes(title="agreement", tickformat=".0%", range=[min(0.8, *agreement) - 0.02, 1.005], row=1, col=1)
    figure.update_yaxes(title="cost", tickformat=".0%", range=[0, 1.02], row=2, col=1)
    figure.update_xaxes(title="seconds since the calibrator was started", row=2, col=1)
    return set_style(figure, height=_TIMELINE_HEIGHT)


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
