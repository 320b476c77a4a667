"""The layout of a stage graph: stages from top to bottom, long flows in lanes to their left, exits to their right.

A flow to the next stage is a straight arrow. A long flow skips at least one stage; all long flows of one source use one
lane, with one branch per target. Lanes of deeper sources are nearer to the stages, so that flows do not cross at their
sources.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeexit.bundle.manifest import Manifest
from edgeexit.stage_graph.flows import StageFlow, bytes_per_sample_text

INPUTS_SHOWN: Final = 6
INPUT_LINE: Final = 20
BOX_WIDTH: Final = 272
EXIT_WIDTH: Final = 232
EXIT_HEIGHT: Final = 66
LABEL_SIZE: Final = 12
CHARACTER_WIDTH: Final = 0.56
"""Average width of a character of a sans-serif font, divided by the font size; SVG cannot measure text."""

_MARGIN: Final = 28
_HEADER: Final = 88
_FOOTER: Final = 88
_BOX_HEIGHT: Final = 88
_GAP: Final = 70
_LANE: Final = 18
_BRANCH: Final = 22
_MAX_LABEL: Final = 190
_FIRST_BRANCH: Final = 20
_LANE_START: Final = 16
_EXIT_GAP: Final = 60


class Box(NamedTuple):
    """A rectangle: upper left corner and size, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """The y coordinate of the lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """The x coordinate of the centre."""
        return self.x + self.width / 2


class Branch(NamedTuple):
    """The last part of a long flow: the horizontal line from its lane to its target."""

    flow: StageFlow
    y: float


class Lane(NamedTuple):
    """A vertical line for all long flows of one source."""

    source: int | None
    x: float
    start_y: float
    branches: tuple[Branch, ...]


class Layout(NamedTuple):
    """Positions in pixels from the upper left corner of the page."""

    width: float
    height: float
    margin: float
    inputs: Box
    stages: tuple[Box, ...]
    exits: tuple[Box, ...]
    straight: tuple[StageFlow, ...]
    """Flows from one box to the next."""
    lanes: tuple[Lane, ...]
    label_width: float
    """Width of the column for labels, between the lanes and the stages."""


def flow_label(flow: StageFlow) -> str:
    """Return the label of an arrow: bytes per sample, and the number of tensors if there is more than one."""
    count = len(flow.tensors)
    return bytes_per_sample_text(flow.tensors) + (f" ({count} tensors)" if count > 1 else "")


def compute_layout(manifest: Manifest, flows: Sequence[StageFlow]) -> Layout:
    """Return the positions of the boxes, lanes and branches of the drawing, in pixels."""
    straight = tuple(flow for flow in flows if _row(flow.source) + 1 == flow.target)
    long = [flow for flow in flows if _row(flow.source) + 1 < flow.target]
    sources = sorted({_row(flow.source) for flow in long})
    last_targets = {source: max(flow.target for flow in long if _row(flow.source) == source) for source in sources}
    ranks = _ranks(last_targets)
    lane_count = max(ranks.values(), default=-1) + 1
    longest = max((len(flow_label(flow)) * LABEL_SIZE * CHARACTER_WIDTH for flow in long), default=0)
    label_width = min(longest, _MAX_LABEL)
    left = _MARGIN + (lane_count * _LANE + label_width + 26 if long else 0)

    input_lines = min(len(manifest.inputs), INPUTS_SHOWN + 1)
    inputs = Box(left, _HEADER, BOX_WIDTH, 40 + input_lines * INPUT_LINE)
    stages: list[Box] = []
    branches: dict[int, list[Branch]] = {source: [] for source in sources}
    y = inputs.bottom + _GAP
    for index in range(len(manifest.stages)):
        incoming = sorted((flow for flow in long if flow.target == index), key=lambda flow: -_row(flow.source))
        for number, flow in enumerate(incoming):
            branches[_row(flow.source)].append(Branch(flow, y + _FIRST_BRANCH + number * _BRANCH))
        needed = _FIRST_BRANCH + len(incoming) * _BRANCH + (_LANE_START if index in last_targets else 0)
        stages.append(Box(left, y, BOX_WIDTH, max(_BOX_HEIGHT, needed)))
        y = stages[-1].bottom + _GAP
    exit_x = left + BOX_WIDTH + _EXIT_GAP
    boxes = {-1: inputs, **dict(enumerate(stages))}
    return Layout(
        width=exit_x + EXIT_WIDTH + _MARGIN,
        height=y - _GAP + _FOOTER,
        margin=_MARGIN,
        inputs=inputs,
        stages=tuple(stages),
        exits=tuple(Box(exit_x, box.y + (box.height - EXIT_HEIGHT) / 2, EXIT_WIDTH, EXIT_HEIGHT) for box in stages),
        straight=straight,
        lanes=tuple(
            Lane(
                source=None if source < 0 else source,
                x=_MARGIN + (lane_count - 1 - ranks[source]) * _LANE + _LANE / 2,
                start_y=boxes[source].bottom - _LANE_START,
                branches=tuple(branches[source]),
            )
            for source in sources
        ),
        label_width=label_width,
    )


def _row(source: int | None) -> int:
    return -1 if source is None else source


def _ranks(last_targets: dict[int, int]) -> dict[int, int]:
    """Return the lane of each source; 0 is nearest to the stages.

    A lane is farther from the stages than all lanes of deeper sources that overlap it vertically.
    """
    ranks: dict[int, int] = {}
    for source in sorted(last_targets, reverse=True):
        overlapping = [ranks[deeper] for deeper in ranks if deeper < last_targets[source]]
        ranks[source] = max(overlapping, default=-1) + 1
    return ranks
