"""What people see: the house's HTML page that opens offline, and a fit's report on it."""

from edgeexit.report.figures import exit_colours
from edgeexit.report.fit_report import draw_report
from edgeexit.report.page import BESIDE, COLOURS, MUTED, Drawing, KeyFigure, Section, Table, draw_page, plain, styled

__all__ = [
    "BESIDE",
    "COLOURS",
    "MUTED",
    "Drawing",
    "KeyFigure",
    "Section",
    "Table",
    "draw_page",
    "draw_report",
    "exit_colours",
    "plain",
    "styled",
]
