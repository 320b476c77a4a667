"""The house's HTML page: one file that opens offline, light and dark, on a wide screen and a narrow one."""

import html
import re
from collections.abc import Sequence
from typing import Final

import msgspec
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

COLOURS: Final = ("#0b7285", "#74b816", "#f59f00", "#c92a2a", "#5f3dc4", "#868e96")
"""Of what has no colour of its own; the last one is for references."""
MUTED: Final = COLOURS[-1]

BESIDE: Final = {"ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)"}
"""For an axis of names: room between them and their bars."""

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Figures in rows; the first column is text. Cells are plain text, whatever is in them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: tuple[int, ...] = ()
    """Indices of rows to stand out."""


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with a name for the page's links and for screen readers."""

    name: str
    """Letters, digits and hyphens, once a page."""
    figure: go.Figure
    description: str
    """What it shows, for those who do not see it. Plain text."""
    heading: str = ""
    """Stands above it where a section holds several. Plain text, as the next."""
    lines: tuple[str, ...] = ()
    """Stand under the heading."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A heading, what to know about it, and figures or tables under it. Plain text throughout."""

    title: str
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    """Side by side where there is more than one and room for it."""
    notes: tuple[str, ...] = ()
    """Small print under the figures."""


class KeyFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A number to see first, and what it is."""

    value: str
    meaning: str


def draw_page(*, title: str, lede: str, sections: Sequence[Section], key_figures: Sequence[KeyFigure] = ()) -> bytes:
    """Return the page as UTF-8 HTML; plotly's JavaScript stands in it, nothing is fetched."""
    parts = [f"<h1>{html.escape(title)}</h1>", _paragraph(lede, "lede")]
    if key_figures:
        pairs = (f"<div><dd>{_text(k.value)}</dd><dt>{_text(k.meaning)}</dt></div>" for k in key_figures)
        parts.append(f'<dl class="key">{"".join(pairs)}</dl>')
    parts += [_section(section) for section in sections]
    # Not str.format: braces in what a user named, or in the script, must stay what they are.
    head = f"<title>{html.escape(title)} - EdgeExit</title>\n<style>{_STYLE}</style>\n<script>{get_plotlyjs()}</script>"
    return "\n".join((_BEFORE, head, "</head>\n<body>", *parts, "</body>\n</html>\n")).encode()


def styled(figure: go.Figure, *, height: int) -> go.Figure:
    """Return the figure in the house style, `height` pixels high and as wide as its place."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        font={"size": 14, "family": _FONT},
        hoverlabel={"font": {"family": _FONT}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": COLOURS[0]},
        paper_bgcolor="rgba(0,0,0,0)",  # the page's own shows through, light or dark
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def plain(text: str, *, longest: int = 40) -> str:
    """Return a user's text for a figure: cut in the middle, and escaped, since plotly takes some HTML in its labels."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    if len(shown) > longest:
        tail = (longest - 1) // 2
        shown = shown[: longest - 1 - tail] + "\N{HORIZONTAL ELLIPSIS}" + shown[len(shown) - tail :]
    return html.escape(shown)


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{html.escape(section.title)}</h2>"]
    parts += [_paragraph(text) for text in section.texts]
    parts += [_table(table) for table in section.tables]
    if section.drawings:
        many = len(section.drawings) > 1
        drawings = "".join(_drawing(drawing, bar=not many) for drawing in section.drawings)
        parts.append(f'<div class="{"many" if many else "one"}">{drawings}</div>')
    parts += [_paragraph(note, "note") for note in section.notes]
    return "\n".join((*parts, "</section>"))


def _drawing(drawing: Drawing, *, bar: bool) -> str:
    inside = drawing.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=drawing.name,  # a random one would make two pages of the same figures differ
        default_height=f"{drawing.figure.layout.height}px",
        config={
            "displaylogo": False,
            "displayModeBar": None if bar else False,  # None: while the pointer is there
            "responsive": True,
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
        },
    )
    heading = f"<strong>{html.escape(drawing.heading)}</strong>" if drawing.heading else ""
    lines = "".join(f"<span>{html.escape(line)}</span>" for line in drawing.lines)
    words = f"<figcaption>{heading}{lines}</figcaption>" if heading or lines else ""
    return f'<figure aria-label="{html.escape(drawing.description)}">{words}{inside}</figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    lines = []
    for index, row in enumerate(table.rows):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="strong">{cells}</tr>' if index in table.strong else f"<tr>{cells}</tr>")
    rows = "".join(lines)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _paragraph(text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{_text(text)}</p>"


def _text(text: str) -> str:
    """Return text in which a figure and its unit stay on one line."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", html.escape(text))


_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|ms\b))")

_BEFORE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">"""

# The chart's own colours are written into it as styles of its parts; only !important reaches over those.
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
.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1.25rem 1rem; }
.js-plotly-plot [class*="tick"] text,
.js-plotly-plot .legendtext, .js-plotly-plot .annotation-text, .js-plotly-plot .gtitle,
.js-plotly-plot [class*="title"], .js-plotly-plot .textpoint text, .js-plotly-plot .bartext-outside {
  fill: var(--ink) !important; }
.js-plotly-plot .gridlayer path, .js-plotly-plot .zl { stroke: var(--line) !important; }
td + td { white-space: nowrap; }
@media (max-width: 40rem) {
  th, td { padding: .35rem .4rem; font-size: .9rem; }
  .many { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
}
"""
