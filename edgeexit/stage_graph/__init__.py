"""The stage graph of a bundle: what flows between its stages, and a drawing of it."""

from edgeexit.stage_graph.flows import StageFlow, flows_of, sample_size
from edgeexit.stage_graph.svg import draw_page, draw_svg

__all__ = ["StageFlow", "draw_page", "draw_svg", "flows_of", "sample_size"]
