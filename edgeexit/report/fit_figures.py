"""The charts of a fitted policy: exit rates, reliability diagrams, exits per class."""

from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go
from plotly.colors import find_intermediate_color, hex_to_rgb

from edgeexit.formatting import percent
from edgeexit.report.class_depth import ClassDepth, shallowest_and_deepest
from edgeexit.report.cost_scale import CostScale
from edgeexit.report.page import COLOURS, GREY, NAME_AXIS, escape_label, set_style
from edgeexit.report.reliability import BINS, Reliability

_EXIT_COLOURS: Final = {2: (0, 3), 3: (0, 2, 3)}
"""Number of exits -> indices of their colours in `COLOURS`; mixed colours would be hard to distinguish."""
_ROW_HEIGHT: Final = 26
_MAX_LABELLED: Final = 4
"""Maximum number of exits with labels above their bars: more labels would overlap on a small screen."""


def exit_colours(count: int) -> tuple[str, ...]:
    """Return one colour per exit, shallow to deep; for more than four exits, colours between the default ones."""
    if count in _EXIT_COLOURS:
        return tuple(COLOURS[index] for index in _EXIT_COLOURS[count])
    scale = [hex_to_rgb(colour) for colour in COLOURS[:4]]
    return tuple(_between(scale, k / max(count - 1, 1)) for k in range(count))


def draw_exit_rates(
    exits: Sequence[str], policy: Sequence[float], oracle: Sequence[float], costs: Sequence[float], scale: CostScale
) -> go.Figure:
    """Return two bars per exit: the exit rate of the policy, and in grey the exit rate of the oracle.

    Args:
        exits: names [K] of the exits.
        policy: exit rates [K] of the policy.
        oracle: exit rates [K] of the oracle.
        costs: [K] cumulative cost of each exit, for the hover text.
        scale: converts costs to text.

    """
    figure = go.Figure()
    positions = list(range(len(exits)))
    names = [escape_label(name) for name in exits]
    texts = len(exits) <= _MAX_LABELLED
    for legend, fractions, colour in (("fitted policy", policy, COLOURS[0]), ("oracle", oracle, GREY)):
        figure.add_bar(
            x=positions,
            y=list(fractions),
            name=legend,
            marker={"color": colour},
            texttemplate="%{y:.0%}" if texts else None,
            textfont={"size": 12},
            constraintext="none",
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            customdata=[(name, scale.text(cost)) for name, cost in zip(names, costs, strict=True)],
            hovertemplate=(f"{legend}: %{{y:.1%}} exit at %{{customdata[0]}}, cost %{{customdata[1]}}<extra></extra>"),
        )
    figure.update_xaxes(tickvals=positions, ticktext=[escape_label(name, max_length=12) for name in exits])
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", title="fraction of samples")
    set_style(figure, height=340)
    return figure.update_layout(legend=_ABOVE)


def draw_reliability(before: Reliability, after: Reliability | None, colour: str) -> go.Figure:
    """Return a reliability diagram before and after temperature scaling; `after` is None if it changes nothing."""
    figure = go.Figure()
    last = after or before
    max_count = max(last.counts.max(), 1)
    figure.add_bar(  # number of samples per bin
        x=(last.edges + 0.5 / BINS).tolist(),
        y=(0.3 * last.counts / max_count).tolist(),
        width=1 / BINS,
        marker={"color": GREY, "opacity": 0.25},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot", "width": 1.5}, hoverinfo="skip"
    )
    if after is not None:
        _add_reliability(figure, before, GREY, "before: ", width=1.5)
        _add_reliability(figure, after, colour, "after: ", width=2.5)
    else:
        _add_reliability(figure, before, colour, "", width=2.5)
    axis = {"range": [0, 1.03], "tickvals": [0, 0.5, 1], "ticktext": ["0", "50%", "100%"], "tickfont": {"size": 12}}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    set_style(figure, height=200)
    return figure.update_layout(showlegend=False, margin={"l": 42, "r": 22, "t": 10, "b": 26})


def draw_class_depths(depths: tuple[ClassDepth, ...], exits: Sequence[str], names: Sequence[str]) -> go.Figure:
    """Return one stacked bar per class with the names [C], the shallowest class on top; at most 30 classes."""
    shallow, deep = shallowest_and_deepest(depths)
    rows = [*shallow, *deep]
    positions = [
        index + (index >= len(shallow)) for index in range(len(rows))
    ]  # one empty row between the shallowest and the deepest classes
    labels = [escape_label(names[depth.index], max_length=16) for depth in rows]
    figure = go.Figure()
    for k, (exit_name, colour) in enumerate(zip(exits, exit_colours(len(exits)), strict=True)):
        name = escape_label(exit_name, max_length=24)
        figure.add_bar(
            y=positions,
            x=[depth.rates[k] for depth in rows],
            name=name,
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            customdata=[
                (escape_label(names[depth.index]), f"{depth.samples:,}", depth.mean_depth, percent(depth.accuracy))
                for depth in rows
            ],
            hovertemplate=(
                f"%{{customdata[0]}}: %{{x:.1%}} exit at {name}<br>%{{customdata[1]}} samples, mean exit "
                "%{customdata[2]:.2f}, accuracy %{customdata[3]}<extra></extra>"
            ),
        )
    for position, depth in zip(positions, rows, strict=True):
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=6, y=position, text=percent(depth.accuracy), showarrow=False
        )
    ticks = list(zip(positions, labels, strict=True))
    if deep:
        ticks.append((len(shallow), "\N{VERTICAL ELLIPSIS}"))
    set_style(figure, height=110 + _ROW_HEIGHT * (max(positions) + 1))
    figure.update_yaxes(
        tickvals=[position for position, _ in ticks],
        ticktext=[label for _, label in ticks],
        range=[max(positions) + 0.6, -0.6],
        showgrid=False,
        automargin=True,
        **NAME_AXIS,
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    return figure.update_layout(
        barmode="stack",
        bargap=0.25,
        legend={**_ABOVE, "traceorder": "normal"},
        margin={"l": 10, "r": 72, "t": 30, "b": 40},
    )


def _add_reliability(figure: go.Figure, diagram: Reliability, colour: str, when: str, *, width: float) -> None:
    figure.add_scatter(
        x=diagram.confidence.tolist(),
        y=diagram.accuracy.tolist(),
        mode="lines+markers",
        line={"color": colour, "width": width},
        marker={"size": 5 if width > 2 else 4},  # noqa: PLR2004 - thin lines have small markers
        customdata=diagram.counts.tolist(),
        hovertemplate=f"{when}accuracy %{{y:.1%}} at probability %{{x:.1%}}, %{{customdata:,}} samples<extra></extra>",
    )


def _between(scale: Sequence[tuple[int, ...]], along: float) -> str:
    last = len(scale) - 1
    index = min(int(along * last), last - 1)
    mixed = find_intermediate_color(scale[index], scale[index + 1], along * last - index)
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


_ABOVE: Final = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"}
