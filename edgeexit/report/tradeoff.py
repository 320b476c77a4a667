"""The first figure: accuracy over latency of every kind, and under it what each gains over the simplest."""

from collections.abc import Sequence
from math import ceil
from typing import Final

import msgspec
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edgeexit.fitting.outcome import PolicyOutcome
from edgeexit.policies import KINDS
from edgeexit.report.curves import Curve, Curves
from edgeexit.report.page import GREY, escape_label, set_style
from edgeexit.report.words import Scale

_KIND_COLOURS: Final = (
    "#1c7ed6", "#e8590c", "#2f9e44", "#e64980", "#f59f00", "#0c8599", "#ae3ec9", "#845ef7", "#74b816", "#c92a2a",
)  # fmt: skip
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_SHOWN: Final = 5
"""Curves to begin with; more cross each other beyond reading, and wait in the legend."""
_NAMED: Final = 4
"""Single exits whose names stand beside their marks; more run into each other on a narrow screen."""
_BESIDE_FINAL: Final = 0.72
"""Share of full cost from which on one of many exits' names would run into the final exit's."""
_FEW: Final = 10
"""A curve of so few points shows them: its kind knows hardly any other thresholds."""
_NORMAL: Final = 1.96
"""Standard errors to either side of 95 % of a normal distribution."""


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """The points to hold the curves against, with their exits' names."""

    exits: tuple[str, ...]
    singles: tuple[PolicyOutcome, ...]
    oracle: PolicyOutcome
    chosen: PolicyOutcome
    kind: str
    """Of the chosen policy."""


def draw_tradeoff(curves: Curves, marks: Marks, scale: Scale, quality: str) -> go.Figure:
    """Return the figure; `quality` names what 1 - loss is."""
    shown = shown_kinds(curves, marks.kind)
    compared = len(curves.curves) > 1
    figure = make_subplots(
        rows=2 if compared else 1,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.05,
        row_heights=[0.66, 0.34] if compared else [1.0],
    )
    if compared:
        _add_noise(figure, curves, max(curves.curves[1:], key=lambda curve: curve.mean_gain), scale)
    for curve in curves.curves:
        _add_curve(figure, curves, curve, scale, shown=curve.kind in shown, compared=compared)
    _add_marks(figure, marks, scale)
    whole = marks.singles[-1]
    figure.add_hline(y=1 - whole.mean_loss, line={"dash": "dot", "color": GREY, "width": 1.5}, row=1, col=1)
    figure.update_yaxes(title=quality, tickformat=".0%", row=1, col=1)
    figure.update_xaxes(**scale.axis, row=2 if compared else 1, col=1)
    if compared:
        figure.update_yaxes(title=f"points over {curves.baseline}", row=2, col=1)
    set_style(figure, height=720 if compared else 520)
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0, "xanchor": "left"})
    return figure


def colour_of(kind: str) -> str:
    """Return a kind's colour, the same in every figure and report."""
    return _KIND_COLOURS[_place(kind) % len(_KIND_COLOURS)]


def shown_kinds(curves: Curves, chosen: str) -> frozenset[str]:
    """Return the kinds to show to begin with: the chosen one, the baseline, and those that gain the most."""
    best = sorted(curves.curves, key=lambda curve: -curve.mean_gain)
    order = [chosen, curves.baseline, *(curve.kind for curve in best)]
    present = [kind for kind in dict.fromkeys(order) if any(curve.kind == kind for curve in curves.curves)]
    return frozenset(kind for kind in present[:_SHOWN] if kind is not None)


def _place(kind: str) -> int:
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def _add_curve(figure: go.Figure, curves: Curves, curve: Curve, scale: Scale, *, shown: bool, compared: bool) -> None:
    few = len(curve.costs) <= _FEW
    line = {"color": colour_of(curve.kind), "width": 2.5, "dash": _DASHES[_place(curve.kind) // 5 % len(_DASHES)]}
    style = {
        "mode": "lines+markers" if few else "lines",
        "line": line,
        "marker": {"size": 6},
        "name": curve.kind,
        "legendgroup": curve.kind,
        "visible": True if shown else "legendonly",
    }
    figure.add_scatter(
        x=scale.plotted(curve.costs),
        y=1 - curve.losses,
        customdata=[scale.speedup(cost) for cost in curve.costs],
        hovertemplate=f"{curve.kind}: %{{y:.1%}} at {scale.hover}, %{{customdata}} less<extra></extra>",
        row=1,
        col=1,
        **style,
    )
    if compared:
        style["mode"] = "lines"
        figure.add_scatter(
            x=scale.plotted(curves.budgets),
            y=100 * curve.gain,
            customdata=100 * _NORMAL * curve.noise,
            hovertemplate=(
                f"{curve.kind}: %{{y:+.2f}} ± %{{customdata:.2f}} points over {curves.baseline} at {scale.hover}"
                "<extra></extra>"
            ),
            showlegend=False,
            row=2,
            col=1,
            **style,
        )


def _add_noise(figure: go.Figure, curves: Curves, leader: Curve, scale: Scale) -> None:
    """Shade where the kind that gains most would be by chance alone."""
    reached = np.isfinite(leader.noise)
    reach = 100 * _NORMAL * leader.noise[reached]
    x = scale.plotted(curves.budgets[reached])
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([reach, -reach[::-1]]),
        fill="toself",
        fillcolor="rgba(134, 142, 150, 0.22)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name=f"chance alone, 95 % ({leader.kind})",
        legendrank=2000,
        row=2,
        col=1,
    )


def _add_marks(figure: go.Figure, marks: Marks, scale: Scale) -> None:
    *early, whole = zip(marks.exits, marks.singles, strict=True)
    every, crowded = ceil(len(early) / _NAMED), _BESIDE_FINAL * scale.whole
    _add_points(
        figure,
        scale,
        [outcome for _, outcome in early],
        names=[escape_label(name) for name, _ in early],
        texts=[
            escape_label(name, max_length=12)
            if every == 1 or (index % every == 0 and outcome.mean_cost < crowded)
            else ""
            for index, (name, outcome) in enumerate(early)
        ],
        legend="always this exit",
        place="bottom right",
        marker={"symbol": "circle-open", "size": 9, "color": GREY, "line": {"width": 2}},
    )
    _add_points(
        figure,
        scale,
        [whole[1]],
        names=[f"{escape_label(whole[0])}, the whole model"],
        texts=["final exit"],
        legend="full model",
        place="bottom left",
        marker={"symbol": "square", "size": 10, "color": GREY},
    )
    _add_points(
        figure,
        scale,
        [marks.oracle],
        names=["oracle: the first right exit"],
        texts=["oracle"],
        legend="oracle",
        place="top center",
        marker={"symbol": "diamond", "size": 12, "color": GREY},
    )
    _add_points(
        figure,
        scale,
        [marks.chosen],
        names=[f"the fitted policy ({marks.kind})"],
        texts=[""],
        legend=f"fitted policy ({marks.kind})",
        place="top left",
        marker={
            "symbol": "star",
            "size": 18,
            "color": colour_of(marks.kind),
            "line": {"width": 1.5, "color": "white"},
        },
    )


def _add_points(
    figure: go.Figure,
    scale: Scale,
    outcomes: Sequence[PolicyOutcome],
    *,
    names: Sequence[str],
    texts: Sequence[str],
    legend: str,
    place: str,
    marker: dict[str, object],
) -> None:
    figure.add_scatter(
        x=scale.plotted(np.array([outcome.mean_cost for outcome in outcomes])),
        y=[1 - outcome.mean_loss for outcome in outcomes],
        mode="markers+text",
        text=list(texts),
        textposition=place,
        marker=marker,
        customdata=[(name, scale.speedup(outcome.mean_cost)) for name, outcome in zip(names, outcomes, strict=True)],
        hovertemplate=(f"%{{customdata[0]}}: %{{y:.1%}} at {scale.hover}, %{{customdata[1]}} less<extra></extra>"),
        name=legend,
        legendrank=1500,
        cliponaxis=False,
        row=1,
        col=1,
    )
