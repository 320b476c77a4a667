"""Draw a stage graph as one self-contained SVG: no scripts, fonts or links; a light and a dark colour scheme."""

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from edgeexit.bundle.manifest import Manifest, TensorSpec
from edgeexit.latency import LatencyProfile
from edgeexit.stage_graph.flows import StageFlow, bytes_per_sample_text, stage_flows
from edgeexit.stage_graph.layout import (
    INPUT_LINE,
    INPUTS_SHOWN,
    Box,
    Branch,
    Lane,
    Layout,
    compute_layout,
    flow_label,
)
from edgeexit.stage_graph.shapes import HEAD, add_arrowhead, add_bar, add_line, add_rect, add_text, add_title, clean

_INPUT_COLOUR: Final = "#868e96"
_COLOURS: Final = ("#1c7ed6", "#e8590c", "#2f9e44", "#ae3ec9", "#0c8599", "#d6336c", "#f08c00", "#7950f2")

_STYLE: Final = """
.stage-graph { --paper: #ffffff; --box: #f4f6f8; --edge: #c5ccd3; --ink: #1b2127; --soft: #5c6770; --bar: #1c7ed6;
  --exit: #2f9e44; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { .stage-graph { --paper: #14181c; --box: #20262c; --edge: #46505a; --ink: #e9edf0;
  --soft: #a3aeb8; --bar: #4dabf7; --exit: #69db7c; } }
.stage-graph text { fill: var(--ink); }
.stage-graph .paper { fill: var(--paper); }
.stage-graph .title { font-size: 19px; font-weight: 600; }
.stage-graph .name { font-size: 14px; font-weight: 600; }
.stage-graph .figure { font-size: 14px; font-variant-numeric: tabular-nums; }
.stage-graph .soft { font-size: 12px; fill: var(--soft); }
.stage-graph .label { font-size: 12px; font-variant-numeric: tabular-nums; stroke: var(--paper); stroke-width: 4px;
  stroke-linejoin: round; paint-order: stroke; }
.stage-graph .box { fill: var(--box); stroke: var(--edge); }
.stage-graph .track { fill: var(--edge); opacity: 0.5; }
.stage-graph .bar { fill: var(--bar); }
.stage-graph .exit { fill: var(--exit); }
.stage-graph .flow { fill: none; stroke-width: 2px; }
.stage-graph .under { fill: none; stroke: var(--paper); stroke-width: 6px; }
.stage-graph .out { fill: none; stroke: var(--soft); stroke-width: 1.5px; }
.stage-graph .outhead { fill: var(--soft); }
.stage-graph .cut { stroke: var(--edge); stroke-dasharray: 3 5; }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{title}
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; background: #ffffff; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14181c; }} }}
svg {{ display: block; margin: 0 auto; max-width: 100%; height: auto; }}
</style>
</head>
<body>
{svg}
</body>
</html>
"""


def draw_svg(manifest: Manifest, profile: LatencyProfile | None) -> str:
    """Return the stage graph as an SVG document; with a profile, it shows latencies and exit rates."""
    root = _draw(manifest, profile)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def draw_page(manifest: Manifest, profile: LatencyProfile | None) -> str:
    """Return the stage graph as one HTML page."""
    title = ET.Element("title")
    title.text = f"{clean(manifest.model)}: stage graph"
    return _PAGE.format(
        title=ET.tostring(title, encoding="unicode"), svg=ET.tostring(_draw(manifest, profile), encoding="unicode")
    )


def _draw(manifest: Manifest, profile: LatencyProfile | None) -> ET.Element:
    layout = compute_layout(manifest, stage_flows(manifest))
    width, height = f"{layout.width:g}", f"{layout.height:g}"
    root = ET.Element(
        "svg", {"class": "stage-graph", "width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    )
    ET.SubElement(root, "style").text = _STYLE
    ET.SubElement(root, "rect", {"class": "paper", "width": width, "height": height})
    _draw_header(root, layout, manifest, profile)
    _draw_cuts(root, layout, manifest)
    for lane in layout.lanes:
        _draw_lane(root, layout, lane)
    for flow in layout.straight:
        _draw_straight(root, layout, flow)
    _draw_inputs(root, layout.inputs, manifest.inputs)
    for index in range(len(manifest.stages)):
        _draw_stage(root, layout.stages[index], manifest, profile, index)
        _draw_exit(root, layout, manifest, profile, index)
    return root


def _draw_header(root: ET.Element, layout: Layout, manifest: Manifest, profile: LatencyProfile | None) -> None:
    add_text(root, layout.margin, 42, manifest.model, "title", max_width=layout.width - 2 * layout.margin, size=19)
    fp32_nodes = f" ({', '.join(manifest.keep_fp32)} in fp32)" if manifest.keep_fp32 else ""
    facts = f"{manifest.task}, {manifest.classes:,} classes, {manifest.precision}{fp32_nodes}, for {manifest.target}"
    add_text(root, layout.margin, 65, facts, "soft", max_width=layout.width - 2 * layout.margin)
    notes = ["Arrows: bytes per sample. Dashed lines: live tensors, in bytes per sample that continues."]
    if profile is None:
        notes.append("Bars: fraction of the multiply-accumulates; run `edgeexit profile` for latencies.")
    else:
        notes.append("Bars: fraction of the mean latency. After: mean latency of a sample that exits there.")
        invalid = f"Invalid profile: {'; '.join(profile.invalid)}. " if profile.invalid else ""
        notes.append(f"{invalid}Measured on {profile.machine}, {profile.runtime}, batch {profile.batch}.")
    for number, note in enumerate(notes):
        y = layout.stages[-1].bottom + 34 + number * 18
        add_text(root, layout.margin, y, note, "soft", max_width=layout.width - 2 * layout.margin)


def _draw_cuts(root: ET.Element, layout: Layout, manifest: Manifest) -> None:
    """Draw a dashed line between consecutive stages, with the size of the live tensors."""
    for index, (above, below) in enumerate(zip(layout.stages, layout.stages[1:], strict=False)):
        live = manifest.live_after(index)
        y = (above.bottom + below.y) / 2
        group = ET.SubElement(root, "g")
        add_title(
            group, _tensor_list(f"live after {manifest.stages[index].name}, from all arrows across this line", live)
        )
        right = layout.width - layout.margin
        add_line(group, "cut", (layout.margin, y), (right, y))
        text = f"live: {bytes_per_sample_text(live)}"
        add_text(group, right, y - 7, text, "soft", anchor="end", max_width=right - layout.exits[0].x)


def _draw_lane(root: ET.Element, layout: Layout, lane: Lane) -> None:
    """Draw the long flows of one source; lines of other lanes that they cross are interrupted at the crossing."""
    colour = _colour(lane.source)
    box = layout.inputs if lane.source is None else layout.stages[lane.source]
    paths = [_lane_path(box.x, lane, branch, layout.stages[branch.flow.target].x - HEAD) for branch in lane.branches]
    for path in paths:
        ET.SubElement(root, "path", {"class": "under", "d": path})
    for branch, path in zip(lane.branches, paths, strict=True):
        target = layout.stages[branch.flow.target]
        group = ET.SubElement(root, "g")
        add_title(group, _tensor_list(_flow_title(branch.flow), branch.flow.tensors))
        ET.SubElement(group, "path", {"class": "flow", "stroke": colour, "d": path})
        add_arrowhead(group, target.x, branch.y, (1, 0), fill=colour)
        add_text(
            group,
            target.x - 12,
            branch.y - 5,
            flow_label(branch.flow),
            "label",
            anchor="end",
            max_width=layout.label_width,
        )


def _lane_path(start: float, lane: Lane, branch: Branch, end: float) -> str:
    left, top, corner = lane.x, lane.start_y, 7
    return (
        f"M{start:g} {top:g}H{left + corner:g}Q{left:g} {top:g} {left:g} {top + corner:g}"
        f"V{branch.y - corner:g}Q{left:g} {branch.y:g} {left + corner:g} {branch.y:g}H{end:g}"
    )


def _draw_straight(root: ET.Element, layout: Layout, flow: StageFlow) -> None:
    colour = _colour(flow.source)
    above = layout.inputs if flow.source is None else layout.stages[flow.source]
    below = layout.stages[flow.target]
    group = ET.SubElement(root, "g")
    add_title(group, _tensor_list(_flow_title(flow), flow.tensors))
    add_line(group, "under", (above.middle, above.bottom), (above.middle, below.y - HEAD))
    add_line(group, "flow", (above.middle, above.bottom), (above.middle, below.y - HEAD), stroke=colour)
    add_arrowhead(group, above.middle, below.y, (0, 1), fill=colour)
    add_text(
        group,
        above.middle + 12,
        above.bottom + 24,
        flow_label(flow),
        "label",
        max_width=layout.exits[0].x - above.middle - 20,
    )


def _draw_inputs(root: ET.Element, box: Box, inputs: Sequence[TensorSpec]) -> None:
    group = ET.SubElement(root, "g")
    add_title(group, _tensor_list("the model's inputs", inputs))
    add_rect(group, box, radius=14)
    add_text(group, box.x + 18, box.y + 24, "inputs", "name")
    shown = [_signature(tensor) for tensor in inputs[:INPUTS_SHOWN]]
    if len(inputs) > INPUTS_SHOWN:
        shown.append(f"and {len(inputs) - INPUTS_SHOWN} more")
    for number, line in enumerate(shown):
        add_text(group, box.x + 18, box.y + 25 + (number + 1) * INPUT_LINE - 2, line, "soft", max_width=box.width - 36)


def _draw_stage(root: ET.Element, box: Box, manifest: Manifest, profile: LatencyProfile | None, index: int) -> None:
    stage = manifest.stages[index]
    macs_fraction = stage.macs / max(sum(each.macs for each in manifest.stages), 1)
    group = ET.SubElement(root, "g")
    add_rect(group, box, radius=8)
    add_text(group, box.x + 16, box.y + 29, stage.name, "name", max_width=box.width / 2 - 16, size=14)
    fraction = macs_fraction
    right = box.x + box.width - 16
    if profile is not None:
        latency = profile.stages[index].latency
        fraction = latency.mean_ms / max(profile.cumulative_ms[-1], 1e-9)
        add_text(group, right, box.y + 29, f"p50 {_milliseconds(latency.p50_ms)}", "figure", anchor="end")
    add_text(group, box.x + 16, box.y + 52, f"{_count(stage.macs)} MACs", "soft")
    add_text(group, right, box.y + 52, f"{_percent(macs_fraction)} of all MACs", "soft", anchor="end")
    track = Box(box.x + 16, box.y + 65, box.width - 32, 6)
    add_bar(group, track, fraction, "bar")


def _draw_exit(
    root: ET.Element, layout: Layout, manifest: Manifest, profile: LatencyProfile | None, index: int
) -> None:
    box, stage, spec = layout.exits[index], layout.stages[index], manifest.stages[index].exit
    group = ET.SubElement(root, "g")
    readout = f"{spec.name}.readout: top-1 class, top-1 and top-2 probability, entropy"
    companions = [f"companion {name}: {_signature(each)}" for name, each in manifest.stages[index].companions.items()]
    add_title(group, "\n".join([_signature(spec), readout, *companions]))
    y = box.y + box.height / 2
    add_line(group, "out", (stage.x + stage.width, y), (box.x - HEAD, y))
    add_arrowhead(group, box.x, y, (1, 0), kind="outhead")
    add_rect(group, box, radius=box.height / 2)
    cost = (
        f"after {_count(manifest.macs[index])} MACs"
        if profile is None
        else f"after {_milliseconds(profile.cumulative_ms[index])}"
    )
    left, room = box.x + 26, box.width - 52
    rate = None if profile is None or profile.exit_rates is None else profile.exit_rates[index]
    add_text(group, left, box.y + 25, spec.name, "name", max_width=room - (0 if rate is None else 64), size=14)
    add_text(group, left, box.y + 44, cost, "soft", max_width=room)
    if rate is not None:
        add_text(group, left + room, box.y + 25, f"{100 * rate:.1f} %", "figure", anchor="end")
        add_text(group, left + room, box.y + 44, "exit here", "soft", anchor="end")
        add_bar(group, Box(left, box.y + 52, room, 4), rate, "exit")
    else:
        add_text(group, left + room, box.y + 44, _shape(spec.shape[1:]), "soft", anchor="end")


def _flow_title(flow: StageFlow) -> str:
    return f"from {'the inputs' if flow.source is None else f'stage {flow.source}'} to stage {flow.target}"


def _tensor_list(title: str, tensors: Sequence[TensorSpec]) -> str:
    lines = [f"{_signature(tensor)}: {bytes_per_sample_text([tensor])}" for tensor in tensors]
    return "\n".join([f"{title}: {bytes_per_sample_text(tensors)} per sample", *lines])


def _signature(tensor: TensorSpec) -> str:
    return f"{tensor.name} {_shape(tensor.shape)} {tensor.dtype}"


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _colour(source: int | None) -> str:
    return _INPUT_COLOUR if source is None else _COLOURS[source % len(_COLOURS)]


def _count(number: int) -> str:
    value, unit = float(number), ""
    for larger in (" k", " M", " G", " T"):
        if value < 1000:  # noqa: PLR2004 - the factor between the units
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}"


def _percent(fraction: float) -> str:
    return "<1 %" if 0 < fraction < 0.005 else f"{100 * fraction:.0f} %"  # noqa: PLR2004 - would be shown as 0 %


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"  # noqa: PLR2004 - no exponent
