"""Renders a report as one self-contained HTML page that works offline, in light and dark mode, and on small screens."""

import html
import re
from collections.abc import Sequence
from typing import Final

import msgspec
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

COLOURS: Final = ("#0b7285", "#74b816", "#f59f00", "#c92a2a", "#5f3dc4", "#868e96")
"""Default colours of the series of a chart; the last one, grey, is for references."""
GREY: Final = COLOURS[-1]

NAME_AXIS: Final = {"ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)"}
"""Layout of an axis with names: adds space between the names and the bars."""

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table; its first column is aligned left, the others right. Cells are plain text and are escaped."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: tuple[int, ...] = ()
    """Indices of the rows in bold."""


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A plotly figure with a caption. All texts are plain and are escaped."""

    name: str
    """The HTML id: letters, digits and hyphens, unique in the page."""
    figure: go.Figure
    description: str
    """Text for screen readers."""
    heading: str = ""
    """Text above the figure, if the section has several figures."""
    lines: tuple[str, ...] = ()
    """Lines of text below the heading."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A heading with texts, tables and charts. All texts are plain and are escaped."""

    title: str
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    """Several charts are side by side if the screen is wide enough."""
    notes: tuple[str, ...] = ()
    """Paragraphs in small print below the charts."""


class KeyFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A number at the top of a page, and its meaning."""

    value: str
    meaning: str


def render_page(
    *, title: str, subtitle: str, sections: Sequence[Section], key_figures: Sequence[KeyFigure] = ()
) -> bytes:
    """Return the page as UTF-8 HTML. It contains plotly's JavaScript and loads nothing from elsewhere."""
    parts = [f"<h1>{html.escape(title)}</h1>", _paragraph(subtitle, "subtitle")]
    if key_figures:
        pairs = (f"<div><dd>{_text(k.value)}</dd><dt>{_text(k.meaning)}</dt></div>" for k in key_figures)
        parts.append(f'<dl class="key">{"".join(pairs)}</dl>')
    parts += [_section(section) for section in sections]
    # No str.format, because names from users and the script may contain braces.
    head = f"<title>{html.escape(title)} - EdgeExit</title>\n<style>{_STYLE}</style>\n<script>{get_plotlyjs()}</script>"
    return "\n".join((_BEFORE, head, "</head>\n<body>", *parts, "</body>\n</html>\n")).encode()


def set_style(figure: go.Figure, *, height: int) -> go.Figure:
    """Set the common style of all charts and a height in pixels; return the figure. Its width follows the page."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        font={"size": 14, "family": _FONT},
        hoverlabel={"font": {"family": _FONT}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": COLOURS[0]},
        paper_bgcolor="rgba(0,0,0,0)",  # transparent, so that light and dark mode both work
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def escape_label(text: str, *, max_length: int = 40) -> str:
    """Return a text for a label in a chart: shortened in the middle, and escaped, because plotly renders some HTML."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    if len(shown) > max_length:
        tail = (max_length - 1) // 2
        shown = shown[: max_length - 1 - tail] + "\N{HORIZONTAL ELLIPSIS}" + shown[len(shown) - tail :]
    return html.escape(shown)


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{html.escape(section.title)}</h2>"]
    parts += [_paragraph(text) for text in section.texts]
    parts += [_table(table) for table in section.tables]
    if section.charts:
        several = len(section.charts) > 1
        charts = "".join(_chart(chart, toolbar=not several) for chart in section.charts)
        parts.append(f'<div class="{"several" if several else "one"}">{charts}</div>')
    parts += [_paragraph(note, "note") for note in section.notes]
    return "\n".join((*parts, "</section>"))


def _chart(chart: Chart, *, toolbar: bool) -> str:
    plot = chart.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=chart.name,  # plotly's default id is random; then two pages of the same data would differ
        default_height=f"{chart.figure.layout.height}px",
        config={
            "displaylogo": False,
            "displayModeBar": None if toolbar else False,  # None: while the pointer is over the chart
            "responsive": True,
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
        },
    )
    heading = f"<strong>{html.escape(chart.heading)}</strong>" if chart.heading else ""
    lines = "".join(f"<span>{html.escape(line)}</span>" for line in chart.lines)
    caption = f"<figcaption>{heading}{lines}</figcaption>" if heading or lines else ""
    return f'<figure aria-label="{html.escape(chart.description)}">{caption}{plot}</figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    rows = ""
    for index, row in enumerate(table.rows):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows += f'<tr class="strong">{cells}</tr>' if index in table.strong else f"<tr>{cells}</tr>"
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _paragraph(text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{_text(text)}</p>"


def _text(text: str) -> str:
    """Return the escaped text, with a no-break space between a number and its unit."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", html.escape(text))


_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|ms\b))")

_BEFORE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">"""

# plotly sets colours as inline styles, which only !important overrides.
_STYLE: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #212529; --soft: #495057; --line: #dee2e6; --box: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e9edf0; --soft: #a9b4be; --line: #353d45; --box: #20262c; }
}
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 0; line-height: 1.3; }
p { color: var(--soft); margin: .3rem 0 1rem; overflow-wrap: anywhere; }
.note { font-size: .875rem; }
.key { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; }
.key div { flex: 1 1 9rem; background: var(--box); border-radius: .5rem; padding: .6rem .9rem; }
.key dd { margin: 0; font-size: 1.6rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.key dt { color: var(--soft); font-size: .875rem; line-height: 1.35; }
.table { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; border-bottom-width: 2px; vertical-align: bottom; }
.strong td { font-weight: 600; }
figure { margin: 0; min-width: 0; }
figcaption { line-height: 1.35; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--soft); font-size: .875rem; font-variant-numeric: tabular-nums; }
.several { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1.25rem 1rem; }
.js-plotly-plot [class*="tick"] text,
.js-plotly-plot .legendtext, .js-plotly-plot .annotation-text, .js-plotly-plot .gtitle,
.js-plotly-plot [class*="title"], .js-plotly-plot .textpoint text, .js-plotly-plot .bartext-outside {
  fill: var(--ink) !important; }
.js-plotly-plot .gridlayer path, .js-plotly-plot .zl { stroke: var(--line) !important; }
td + td { white-space: nowrap; }
td:nth-child(2):last-child { white-space: normal; }
td:nth-last-child(2):first-child { white-space: nowrap; }
@media (max-width: 40rem) {
  th, td { padding: .35rem .4rem; font-size: .9rem; }
  .several { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
}
"""
