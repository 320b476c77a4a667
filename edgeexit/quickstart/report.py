"""The story as one HTML page that opens offline: the table, the timeline, the exit mix, the stages' latency."""

import html
from collections.abc import Sequence
from pathlib import Path

import msgspec
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from edgeexit.console import share
from edgeexit.files import write_atomic
from edgeexit.latency import LatencyProfile
from edgeexit.quickstart.drill import Drill
from edgeexit.quickstart.watch import Phase
from edgeexit.runtime import Evaluation

_COLOURS = ("#0b7285", "#74b816", "#f59f00", "#c92a2a", "#5f3dc4", "#868e96")


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """Every figure of a quickstart."""

    model: str
    exits: tuple[str, ...]
    policy: str
    risk: float
    delta: float
    evaluations: dict[str, Evaluation]
    """On clean test samples."""
    profile: LatencyProfile
    drill: Drill
    """On the fleet, under drift."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The chapters of the drill, in order."""
        return self.drill.before, self.drill.drifted, self.drill.after

    @property
    def caption(self) -> str:
        """What the table's figures are, in a sentence or two."""
        whole = self.profile.cumulative_ms[-1]
        text = (
            "Agreement is with the final exit, from audits. Stage cost is the profile's stage latencies, weighted by "
            f"the exit mix; the whole model's is {whole:.3f} ms."
        )
        if self.drill.device_ms is not None:
            text += (
                f" On the devices, which sleep between samples and share this machine, an answer took "
                f"{self.drill.device_ms:.2f} ms on average."
            )
        return text

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the before/after table: its columns and rows."""
        columns = ("", "revision", "agreement", "95 % interval", *self.exits, "stage cost")
        rows = []
        for phase in self.phases:
            found, rates = phase.disagreement, phase.mix.rates or (0.0,) * len(self.exits)
            rows.append(
                (
                    phase.name,
                    str(phase.revision),
                    "-" if found.observed is None else share(1 - found.observed),
                    f"{100 * (1 - found.high):.1f} to {share(1 - found.low)}",
                    *(share(rate) for rate in rates),
                    f"{phase.mean_ms(self.profile.cumulative_ms):.3f} ms",
                )
            )
        return columns, rows


def write_report(path: Path, story: Story) -> None:
    """Write the page, whole or not at all."""
    columns, rows = story.table()
    target = f"{1 - story.risk:.0%}"
    figures = [
        (
            "Agreement with the final exit, over time",
            f"Of the last 100 audited samples; certified: at least {target}. The calibrator sees it break and refits.",
            _timeline(story),
        ),
        ("Where samples leave", "Shares of audited samples, before and after.", _mix(story)),
        (
            "What a stage costs on this machine",
            f"{story.profile.machine}, {story.profile.runtime}, one sample at a time; whiskers: p50 to p90.",
            _stages(story.profile),
        ),
    ]
    body = "".join(
        f"<h2>{title}</h2><p>{html.escape(text)}</p>"
        + figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
        for title, text, figure in figures
    )
    evaluation_rows = [
        (
            name,
            "-" if result.accuracy is None else share(result.accuracy.value),
            share(result.agreement.value),
            *(share(rate.value) for rate in result.exit_rates),
            f"{result.latency.mean_ms.value:.3f} ms",
        )
        for name, result in story.evaluations.items()
    ]
    evaluation_columns = ("clean test samples", "accuracy", "agreement", *story.exits, "mean latency")
    page = _PAGE.format(
        model=html.escape(story.model),
        plotly=get_plotlyjs(),
        table=_html_table(columns, rows) + f"<p>{html.escape(story.caption)}</p>",
        evaluation=_html_table(evaluation_columns, evaluation_rows),
        body=body,
    )
    write_atomic(path, page.encode())


def _timeline(story: Story) -> go.Figure:
    figure = go.Figure()
    seconds = [moment.seconds for moment in story.drill.moments]
    agreement = [moment.agreement for moment in story.drill.moments]
    figure.add_scatter(x=seconds, y=agreement, mode="lines", name="agreement", line={"color": _COLOURS[0], "width": 3})
    figure.add_hline(
        y=1 - story.risk,
        line={"dash": "dash", "color": _COLOURS[5]},
        annotation_text="certified",
        annotation_position="bottom left",
    )
    for at, text in ((story.drill.drift_s, "the stream changes"), (story.drill.update_s, "new policy in force")):
        figure.add_vline(x=at, line={"color": _COLOURS[3]}, annotation_text=text, annotation_position="bottom left")
    figure.update_yaxes(tickformat=".0%", range=[min(0.8, *agreement) - 0.02, 1.005])
    figure.update_xaxes(title="seconds since the agents started")
    return _styled(figure)


def _mix(story: Story) -> go.Figure:
    figure = go.Figure()
    names = [phase.name for phase in story.phases][::-1]
    for k, exit_name in enumerate(story.exits):
        shares = [(phase.mix.rates or (0.0,) * len(story.exits))[k] for phase in story.phases][::-1]
        figure.add_bar(
            y=names, x=shares, name=exit_name, orientation="h", marker={"color": _COLOURS[k % len(_COLOURS)]}
        )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    return _styled(figure)


def _stages(profile: LatencyProfile) -> go.Figure:
    latencies = [stage.latency for stage in profile.stages]
    above = [(latency.p90_ms or latency.p50_ms) - latency.p50_ms for latency in latencies]
    figure = go.Figure()
    figure.add_bar(
        x=[stage.name for stage in profile.stages],
        y=[latency.p50_ms for latency in latencies],
        error_y={"type": "data", "array": above, "arrayminus": [0] * len(above)},
        marker={"color": _COLOURS[0]},
    )
    figure.update_yaxes(title="ms", rangemode="tozero")
    return _styled(figure)


def _styled(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        template="plotly_white", height=340, margin={"l": 60, "r": 20, "t": 30, "b": 50}, font={"size": 14}
    )


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>EdgeExit quickstart</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #212529; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }}
h2 {{ margin: 2.5rem 0 0; }}
p {{ color: #495057; margin: .3rem 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .4rem .6rem; border-bottom: 1px solid #dee2e6; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ font-weight: 600; border-bottom-width: 2px; }}
</style>
<script>{plotly}</script>
</head>
<body>
<h1>The loop, once around</h1>
<p>{model}: compiled, run by two agents, drifted, recalibrated, updated.</p>
{table}
{evaluation}
{body}
</body>
</html>
"""
