"""The figures of one policy: where samples leave, how far its exits can be believed, how deep each class goes."""

from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go
from plotly.colors import find_intermediate_color, hex_to_rgb

from edgeexit.formatting import percent
from edgeexit.report.depth import ClassDepth, ends
from edgeexit.report.page import COLOURS, GREY, NAME_AXIS, escape_label, set_style
from edgeexit.report.reliability import BINS, Reliability
from edgeexit.report.words import Scale

_EXIT_COLOURS: Final = {2: (0, 3), 3: (0, 2, 3)}
"""Places among the colours; a blend of the middle ones would be a muddy one."""
_ROW_HEIGHT: Final = 26
_FIGURED: Final = 4
"""Exits whose bars have their figures above them; on a narrow screen more would run into each other."""


def exit_colours(count: int) -> tuple[str, ...]:
    """Return a colour an exit, from the cheapest to the final one: the house's own, and blends of them above four."""
    if count in _EXIT_COLOURS:
        return tuple(COLOURS[place] for place in _EXIT_COLOURS[count])
    scale = [hex_to_rgb(colour) for colour in COLOURS[:4]]
    return tuple(_between(scale, k / max(count - 1, 1)) for k in range(count))


def draw_exit_rates(
    exits: Sequence[str], policy: Sequence[float], oracle: Sequence[float], costs: Sequence[float], scale: Scale
) -> go.Figure:
    """Return a bar an exit for the policy and, grey, for the oracle; all [K]."""
    figure = go.Figure()
    places = list(range(len(exits)))
    names = [escape_label(name) for name in exits]
    texts = len(exits) <= _FIGURED
    for legend, fractions, colour in (("fitted policy", policy, COLOURS[0]), ("oracle", oracle, GREY)):
        figure.add_bar(
            x=places,
            y=list(fractions),
            name=legend,
            marker={"color": colour},
            texttemplate="%{y:.0%}" if texts else None,
            textfont={"size": 12},
            constraintext="none",
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            customdata=[(name, scale.write(cost)) for name, cost in zip(names, costs, strict=True)],
            hovertemplate=(f"{legend}: %{{y:.1%}} leave at %{{customdata[0]}}, for %{{customdata[1]}}<extra></extra>"),
        )
    figure.update_xaxes(tickvals=places, ticktext=[escape_label(name, max_length=12) for name in exits])
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", title="share of samples")
    set_style(figure, height=340)
    return figure.update_layout(legend=_ABOVE)


def draw_reliability(before: Reliability, after: Reliability | None, colour: str) -> go.Figure:
    """Return accuracy over top-1 probability; `after` is under fitted temperatures, None where they do not differ."""
    figure = go.Figure()
    last = after or before
    most = max(last.counts.max(), 1)
    figure.add_bar(  # how many samples each bin holds, along the foot
        x=(last.edges + 0.5 / BINS).tolist(),
        y=(0.3 * last.counts / most).tolist(),
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
    """Return a stacked bar a class, the shallowest on top; of many only the two ends. `names` [C] of the classes."""
    shallow, deep = ends(depths)
    rows = [*shallow, *deep]
    places = [index + (index >= len(shallow)) for index in range(len(rows))]  # a gap between the two ends
    labels = [escape_label(names[depth.index], max_length=16) for depth in rows]
    figure = go.Figure()
    for k, (exit_name, colour) in enumerate(zip(exits, exit_colours(len(exits)), strict=True)):
        name = escape_label(exit_name, max_length=24)
        figure.add_bar(
            y=places,
            x=[depth.rates[k] for depth in rows],
            name=name,
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            customdata=[
                (escape_label(names[depth.index]), f"{depth.samples:,}", depth.mean_depth, percent(depth.accuracy))
                for depth in rows
            ],
            hovertemplate=(
                f"%{{customdata[0]}}: %{{x:.1%}} leave at {name}<br>%{{customdata[1]}} samples, mean exit "
                "%{customdata[2]:.2f}, %{customdata[3]} right<extra></extra>"
            ),
        )
    for place, depth in zip(places, rows, strict=True):
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=6, y=place, text=percent(depth.accuracy), showarrow=False
        )
    ticks = list(zip(places, labels, strict=True))
    if deep:
        ticks.append((len(shallow), "\N{VERTICAL ELLIPSIS}"))
    set_style(figure, height=110 + _ROW_HEIGHT * (max(places) + 1))
    figure.update_yaxes(
        tickvals=[place for place, _ in ticks],
        ticktext=[label for _, label in ticks],
        range=[max(places) + 0.6, -0.6],
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


def _add_reliability(figure: go.Figure, found: Reliability, colour: str, when: str, *, width: float) -> None:
    figure.add_scatter(
        x=found.confidence.tolist(),
        y=found.accuracy.tolist(),
        mode="lines+markers",
        line={"color": colour, "width": width},
        marker={"size": 5 if width > 2 else 4},  # noqa: PLR2004 - the finer line, the finer marks
        customdata=found.counts.tolist(),
        hovertemplate=f"{when}%{{y:.1%}} right where %{{x:.1%}} sure, %{{customdata:,}} samples<extra></extra>",
    )


def _between(scale: Sequence[tuple[int, ...]], along: float) -> str:
    last = len(scale) - 1
    index = min(int(along * last), last - 1)
    mixed = find_intermediate_color(scale[index], scale[index + 1], along * last - index)
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


_ABOVE: Final = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"}
