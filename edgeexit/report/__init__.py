"""HTML reports: the page of a fit, the page of a latency profile, and the elements that all pages share."""

from edgeexit.report.fit_figures import exit_colours
from edgeexit.report.fit_report import FitReport, write_fit_report
from edgeexit.report.page import (
    COLOURS,
    GREY,
    NAME_AXIS,
    Chart,
    KeyFigure,
    Section,
    Table,
    escape_label,
    render_page,
    set_style,
)

__all__ = [
    "COLOURS",
    "GREY",
    "NAME_AXIS",
    "Chart",
    "FitReport",
    "KeyFigure",
    "Section",
    "Table",
    "escape_label",
    "exit_colours",
    "render_page",
    "set_style",
    "write_fit_report",
]
