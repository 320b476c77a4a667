"""Where everything of a stage graph is drawn: stages down the page, long flows in lanes to their left, exits right.

A stage's flow to the next one goes straight down. What it gives to later ones runs down one lane, with a tap to each.
Lanes of deeper sources are nearer to the stages, so that no flow crosses another where it leaves its source.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeexit.bundle.manifest import Manifest
from edgeexit.stage_graph.flows import StageFlow, sample_size

INPUTS_SHOWN: Final = 6
INPUT_LINE: Final = 20
BOX_WIDTH: Final = 272
EXIT_WIDTH: Final = 232
EXIT_HEIGHT: Final = 66
LABEL_SIZE: Final = 12
CHARACTER_WIDTH: Final = 0.56
"""Of the font size, on average, in a sans-serif; an SVG cannot ask how wide a text is."""

_MARGIN: Final = 28
_HEADER: Final = 88
_FOOTER: Final = 88
_BOX_HEIGHT: Final = 88
_GAP: Final = 70
_LANE: Final = 18
_TAP: Final = 22
_MAX_LABEL: Final = 190
_FIRST_TAP: Final = 20
_LEAVES: Final = 16
_EXIT_GAP: Final = 60


class Box(NamedTuple):
    """A rectangle: its upper left corner and its size, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """Of its lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """Of its centre, across."""
        return self.x + self.width / 2


class Tap(NamedTuple):
    """The end of a long flow: from its lane into its target."""

    flow: StageFlow
    y: float


class Lane(NamedTuple):
    """A vertical line that carries one source's long flows."""

    source: int | None
    x: float
    leaves_y: float
    taps: tuple[Tap, ...]


class Layout(NamedTuple):
    """Positions in pixels, from the upper left corner of the page."""

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
    """Of the column between lanes and stages."""


def flow_label(flow: StageFlow) -> str:
    """Return what stands on an arrow: bytes of a sample, and how many tensors where there are several."""
    count = len(flow.tensors)
    return sample_size(flow.tensors) + (f" ({count} tensors)" if count > 1 else "")


def lay_out(manifest: Manifest, flows: Sequence[StageFlow]) -> Layout:
    """Return where everything goes."""
    straight = tuple(flow for flow in flows if _row(flow.source) + 1 == flow.target)
    long = [flow for flow in flows if _row(flow.source) + 1 < flow.target]
    sources = sorted({_row(flow.source) for flow in long})
    ends = {source: max(flow.target for flow in long if _row(flow.source) == source) for source in sources}
    ranks = _ranks(ends)
    lane_count = max(ranks.values(), default=-1) + 1
    longest = max((len(flow_label(flow)) * LABEL_SIZE * CHARACTER_WIDTH for flow in long), default=0)
    label_width = min(longest, _MAX_LABEL)
    left = _MARGIN + (lane_count * _LANE + label_width + 26 if long else 0)

    lines = min(len(manifest.inputs), INPUTS_SHOWN + 1)
    inputs = Box(left, _HEADER, BOX_WIDTH, 40 + lines * INPUT_LINE)
    stages: list[Box] = []
    taps: dict[int, list[Tap]] = {source: [] for source in sources}
    y = inputs.bottom + _GAP
    for index in range(len(manifest.stages)):
        arriving = sorted((flow for flow in long if flow.target == index), key=lambda flow: -_row(flow.source))
        for number, flow in enumerate(arriving):
            taps[_row(flow.source)].append(Tap(flow, y + _FIRST_TAP + number * _TAP))
        needed = _FIRST_TAP + len(arriving) * _TAP + (_LEAVES if index in ends else 0)
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
                leaves_y=boxes[source].bottom - _LEAVES,
                taps=tuple(taps[source]),
            )
            for source in sources
        ),
        label_width=label_width,
    )


def _row(source: int | None) -> int:
    return -1 if source is None else source


def _ranks(ends: dict[int, int]) -> dict[int, int]:
    """Return each source's lane, 0 nearest to the stages: beyond those of deeper sources that run beside it."""
    ranks: dict[int, int] = {}
    for source in sorted(ends, reverse=True):
        beside = [ranks[deeper] for deeper in ranks if deeper < ends[source]]
        ranks[source] = max(beside, default=-1) + 1
    return ranks
