"""The story as one HTML page that opens offline: the table, the timeline, the exit mix, the stages' latency."""

from pathlib import Path

import msgspec
import plotly.graph_objects as go

from edgeexit.files import write_atomic
from edgeexit.formatting import percent
from edgeexit.latency import LatencyProfile
from edgeexit.quickstart.drill import Drill
from edgeexit.quickstart.watch import DrillPhase
from edgeexit.report import BESIDE, COLOURS, MUTED, Drawing, Section, Table, draw_page, exit_colours, plain, styled
from edgeexit.runtime import Evaluation

_HEIGHT = 340


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
    def phases(self) -> tuple[DrillPhase, ...]:
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
                    "-" if found.observed is None else percent(1 - found.observed),
                    f"{100 * (1 - found.high):.1f} to {percent(1 - found.low)}",
                    *(percent(rate) for rate in rates),
                    f"{phase.mean_ms(self.profile.cumulative_ms):.3f} ms",
                )
            )
        return columns, rows


def write_report(path: Path, story: Story) -> None:
    """Write the page, whole or not at all."""
    columns, rows = story.table()
    page = draw_page(
        title="The loop, once around",
        lede=f"{story.model}: compiled, run by two agents, drifted, recalibrated, updated.",
        sections=[
            Section(
                title="Before and after",
                tables=(Table(columns=columns, rows=tuple(rows)),),
                notes=(story.caption,),
            ),
            Section(title="What policies make of the model", tables=(_evaluations(story),)),
            Section(
                title="Agreement with the final exit, over time",
                texts=(
                    (
                        f"Of the last 100 audited samples; certified: at least {1 - story.risk:.0%}. The calibrator "
                        "sees it break and refits."
                    ),
                ),
                drawings=(Drawing(name="timeline", figure=_timeline(story), description="agreement over time"),),
            ),
            Section(
                title="Where samples leave",
                texts=("Shares of audited samples, before and after.",),
                drawings=(
                    Drawing(name="mix", figure=_mix(story), description="share of samples that leave at each exit"),
                ),
            ),
            Section(
                title="What a stage costs on this machine",
                texts=(
                    (f"{story.profile.machine}, {story.profile.runtime}, one sample at a time; whiskers: p50 to p90."),
                ),
                drawings=(
                    Drawing(name="stages", figure=_stages(story.profile), description="latency of each stage, ms"),
                ),
            ),
        ],
    )
    write_atomic(path, page)


def _evaluations(story: Story) -> Table:
    rows = [
        (
            name,
            "-" if result.accuracy is None else percent(result.accuracy.value),
            percent(result.agreement.value),
            *(percent(rate.value) for rate in result.exit_rates),
            f"{result.latency.mean_ms.value:.3f} ms",
        )
        for name, result in story.evaluations.items()
    ]
    columns = ("clean test samples", "accuracy", "agreement", *story.exits, "mean latency")
    return Table(columns=columns, rows=tuple(rows))


def _timeline(story: Story) -> go.Figure:
    figure = go.Figure()
    seconds = [moment.seconds for moment in story.drill.moments]
    agreement = [moment.agreement for moment in story.drill.moments]
    figure.add_scatter(x=seconds, y=agreement, mode="lines", name="agreement", line={"color": COLOURS[0], "width": 3})
    figure.add_hline(
        y=1 - story.risk,
        line={"dash": "dash", "color": MUTED},
        annotation_text="certified",
        annotation_position="bottom left",
    )
    for at, text, place in (
        (story.drill.drift_s, "the stream changes", "bottom left"),
        (story.drill.update_s, "new policy in force", "top left"),
    ):
        figure.add_vline(x=at, line={"color": COLOURS[3]}, annotation_text=text, annotation_position=place)
    figure.update_yaxes(tickformat=".0%", range=[min(0.8, *agreement) - 0.02, 1.005])
    figure.update_xaxes(title="seconds since the agents started")
    return styled(figure, height=_HEIGHT)


def _mix(story: Story) -> go.Figure:
    figure = go.Figure()
    names = [phase.name for phase in story.phases][::-1]
    for k, (exit_name, colour) in enumerate(zip(story.exits, exit_colours(len(story.exits)), strict=True)):
        fractions = [(phase.mix.rates or (0.0,) * len(story.exits))[k] for phase in story.phases][::-1]
        figure.add_bar(y=names, x=fractions, name=plain(exit_name), orientation="h", marker={"color": colour})
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(**BESIDE)
    return styled(figure, height=_HEIGHT)


def _stages(profile: LatencyProfile) -> go.Figure:
    latencies = [stage.latency for stage in profile.stages]
    above = [(latency.p90_ms or latency.p50_ms) - latency.p50_ms for latency in latencies]
    figure = go.Figure()
    figure.add_bar(
        x=[plain(stage.name) for stage in profile.stages],
        y=[latency.p50_ms for latency in latencies],
        error_y={"type": "data", "array": above, "arrayminus": [0] * len(above), "color": MUTED},
        marker={"color": COLOURS[0]},
    )
    figure.update_yaxes(title="ms", rangemode="tozero")
    return styled(figure, height=_HEIGHT)
