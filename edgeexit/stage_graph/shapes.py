"""The shapes of a stage graph as SVG elements."""

from typing import Final
from xml.etree import ElementTree as ET

from edgeexit.stage_graph.layout import CHARACTER_WIDTH, LABEL_SIZE, Box

HEAD: Final = 5
"""Half the width of an arrowhead, in pixels."""


def clean(text: str) -> str:
    """Replace the characters that cannot be printed, which XML may not allow; names of a model may contain any."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def add_text(
    parent: ET.Element,
    x: float,
    y: float,
    text: str,
    kind: str,
    *,
    anchor: str = "start",
    max_width: float | None = None,
    size: int = LABEL_SIZE,
) -> None:
    """Add a line of text. Text longer than about `max_width` pixels is truncated; its tooltip has the full text."""
    full = clean(text)
    max_characters = len(full) if max_width is None else max(int(max_width / (size * CHARACTER_WIDTH)), 4)
    shown = full if len(full) <= max_characters else f"{full[: max_characters - 1]}…"
    element = ET.SubElement(parent, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor})
    element.text = shown
    if shown != full:
        add_title(element, full)


def add_title(parent: ET.Element, text: str) -> None:
    """Add a tooltip with one or more lines."""
    ET.SubElement(parent, "title").text = "\n".join(clean(line) for line in text.split("\n"))


def add_rect(parent: ET.Element, box: Box, *, radius: float, kind: str = "box") -> None:
    """Add a rectangle with rounded corners."""
    values = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "rx": radius}
    ET.SubElement(parent, "rect", {"class": kind} | {key: f"{value:g}" for key, value in values.items()})


def add_bar(parent: ET.Element, track: Box, fraction: float, kind: str) -> None:
    """Add a bar that fills a fraction, 0 to 1, of its track."""
    add_rect(parent, track, radius=track.height / 2, kind="track")
    filled = track._replace(width=track.width * min(max(fraction, 0), 1))
    add_rect(parent, filled, radius=track.height / 2, kind=kind)


def add_line(parent: ET.Element, kind: str, start: tuple[float, float], end: tuple[float, float], **style: str) -> None:
    """Add a straight line from start to end, each (x, y)."""
    path = f"M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}"
    ET.SubElement(parent, "path", {"class": kind, "d": path} | style)


def add_arrowhead(
    parent: ET.Element, x: float, y: float, towards: tuple[int, int], *, fill: str | None = None, kind: str = "head"
) -> None:
    """Add an arrowhead whose tip is at (x, y); `towards` is its direction, a unit vector along x or y."""
    along, across = towards, (-towards[1], towards[0])
    back = (x - along[0] * 2 * HEAD, y - along[1] * 2 * HEAD)
    points = [(x, y), *((back[0] + side * across[0] * HEAD, back[1] + side * across[1] * HEAD) for side in (1, -1))]
    path = "M" + "L".join(f"{px:g} {py:g}" for px, py in points) + "Z"
    ET.SubElement(parent, "path", {"class": kind, "d": path} | ({} if fill is None else {"fill": fill}))
