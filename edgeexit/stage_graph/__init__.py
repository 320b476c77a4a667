"""The stage graph of a bundle: the tensors between its stages, and a drawing of them."""

from edgeexit.stage_graph.flows import StageFlow, bytes_per_sample_text, stage_flows
from edgeexit.stage_graph.svg import draw_page, draw_svg

__all__ = ["StageFlow", "bytes_per_sample_text", "draw_page", "draw_svg", "stage_flows"]
