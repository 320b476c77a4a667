"""The trade-off chart: accuracy over cost for every kind of policy, and below it the gain over the simplest kind."""

from collections.abc import Sequence
from math import ceil
from typing import Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edgeexit.fitting.outcome import PolicyOutcome
from edgeexit.policies import KINDS
from edgeexit.report.cost_scale import CostScale
from edgeexit.report.outcomes import ReportOutcomes
from edgeexit.report.page import GREY, escape_label, set_style
from edgeexit.report.tradeoff_curves import TradeoffCurve, TradeoffCurves

_KIND_COLOURS: Final = (
    "#1c7ed6", "#e8590c", "#2f9e44", "#e64980", "#f59f00", "#0c8599", "#ae3ec9", "#845ef7", "#74b816", "#c92a2a",
)  # fmt: skip
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_VISIBLE: Final = 5
"""Number of curves that are visible at first; more would be hard to read. A click in the legend shows the others."""
_MAX_NAMES: Final = 4
"""Maximum number of exits with a visible name; more names would overlap on a small screen."""
_NEAR_FINAL: Final = 0.72
"""Fraction of the full cost above which the name of an exit would overlap with the name of the final exit."""
_FEW_POINTS: Final = 10
"""A curve with at most this many points has a marker at each point: its kind has only a few distinct thresholds."""
_Z95: Final = 1.96
"""Half the width of a 95 % interval of a normal distribution, in standard errors."""


def draw_tradeoff(curves: TradeoffCurves, outcomes: ReportOutcomes, scale: CostScale, quality: str) -> go.Figure:
    """Return the chart; `quality` is the name of 1 - loss, e.g. `accuracy`."""
    shown = shown_kinds(curves, outcomes.kind)
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
    _add_outcomes(figure, outcomes, scale)
    figure.add_hline(
        y=1 - outcomes.full_model.mean_loss, line={"dash": "dot", "color": GREY, "width": 1.5}, row=1, col=1
    )
    figure.update_yaxes(title=quality, tickformat=".2~%", row=1, col=1)
    figure.update_xaxes(**scale.axis, row=2 if compared else 1, col=1)
    if compared:
        figure.update_yaxes(title=f"points over {curves.baseline}", row=2, col=1)
    set_style(figure, height=720 if compared else 520)
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0, "xanchor": "left"})
    return figure


def colour_of(kind: str) -> str:
    """Return the colour of a kind; it is the same in all charts and reports."""
    return _KIND_COLOURS[_kind_index(kind) % len(_KIND_COLOURS)]


def shown_kinds(curves: TradeoffCurves, chosen: str) -> frozenset[str]:
    """Return the kinds that are visible at first: the chosen one, the baseline, and those with the largest gain."""
    best = sorted(curves.curves, key=lambda curve: -curve.mean_gain)
    order = [chosen, curves.baseline, *(curve.kind for curve in best)]
    present = [kind for kind in dict.fromkeys(order) if any(curve.kind == kind for curve in curves.curves)]
    return frozenset(kind for kind in present[:_VISIBLE] if kind is not None)


def _kind_index(kind: str) -> int:
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def _add_curve(
    figure: go.Figure, curves: TradeoffCurves, curve: TradeoffCurve, scale: CostScale, *, shown: bool, compared: bool
) -> None:
    few = len(curve.costs) <= _FEW_POINTS
    line = {"color": colour_of(curve.kind), "width": 2.5, "dash": _DASHES[_kind_index(curve.kind) // 5 % len(_DASHES)]}
    style = {
        "mode": "lines+markers" if few else "lines",
        "line": line,
        "marker": {"size": 6},
        "name": curve.kind,
        "legendgroup": curve.kind,
        "visible": True if shown else "legendonly",
    }
    figure.add_scatter(
        x=scale.axis_values(curve.costs),
        y=1 - curve.losses,
        customdata=[scale.speedup(cost) for cost in curve.costs],
        hovertemplate=f"{curve.kind}: %{{y:.1%}} at {scale.hover}, speed-up %{{customdata}}<extra></extra>",
        row=1,
        col=1,
        **style,
    )
    if compared:
        style["mode"] = "lines"
        figure.add_scatter(
            x=scale.axis_values(curves.budgets),
            y=100 * curve.gain,
            customdata=100 * _Z95 * curve.noise,
            hovertemplate=(
                f"{curve.kind}: %{{y:+.2f}} ± %{{customdata:.2f}} points over {curves.baseline} at {scale.hover}"
                "<extra></extra>"
            ),
            showlegend=False,
            row=2,
            col=1,
            **style,
        )


def _add_noise(figure: go.Figure, curves: TradeoffCurves, leader: TradeoffCurve, scale: CostScale) -> None:
    """Add the 95 % band around zero gain, for the kind with the largest gain."""
    reached = np.isfinite(leader.noise)
    half_width = 100 * _Z95 * leader.noise[reached]
    x = scale.axis_values(curves.budgets[reached])
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([half_width, -half_width[::-1]]),
        fill="toself",
        fillcolor="rgba(134, 142, 150, 0.22)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name=f"explained by chance, 95 % ({leader.kind})",
        legendrank=2000,
        row=2,
        col=1,
    )


def _add_outcomes(figure: go.Figure, outcomes: ReportOutcomes, scale: CostScale) -> None:
    *early, final = zip(outcomes.exits, outcomes.single_exits, strict=True)
    every, crowded = ceil(len(early) / _MAX_NAMES), _NEAR_FINAL * scale.full_cost
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
        [final[1]],
        names=[f"{escape_label(final[0])}, the full model"],
        texts=["final exit"],
        legend="full model",
        place="bottom left",
        marker={"symbol": "square", "size": 10, "color": GREY},
    )
    _add_points(
        figure,
        scale,
        [outcomes.oracle],
        names=["oracle: the first correct exit"],
        texts=["oracle"],
        legend="oracle",
        place="top center",
        marker={"symbol": "diamond", "size": 12, "color": GREY},
    )
    _add_points(
        figure,
        scale,
        [outcomes.fitted],
        names=[f"the fitted policy ({outcomes.kind})"],
        texts=[""],
        legend=f"fitted policy ({outcomes.kind})",
        place="top left",
        marker={
            "symbol": "star",
            "size": 18,
            "color": colour_of(outcomes.kind),
            "line": {"width": 1.5, "color": "white"},
        },
    )


def _add_points(
    figure: go.Figure,
    scale: CostScale,
    outcomes: Sequence[PolicyOutcome],
    *,
    names: Sequence[str],
    texts: Sequence[str],
    legend: str,
    place: str,
    marker: dict[str, object],
) -> None:
    figure.add_scatter(
        x=scale.axis_values(np.array([outcome.mean_cost for outcome in outcomes])),
        y=[1 - outcome.mean_loss for outcome in outcomes],
        mode="markers+text",
        text=list(texts),
        textposition=place,
        marker=marker,
        customdata=[(name, scale.speedup(outcome.mean_cost)) for name, outcome in zip(names, outcomes, strict=True)],
        hovertemplate=(f"%{{customdata[0]}}: %{{y:.1%}} at {scale.hover}, speed-up %{{customdata[1]}}<extra></extra>"),
        name=legend,
        legendrank=1500,
        cliponaxis=False,
        row=1,
        col=1,
    )
