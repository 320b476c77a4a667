"""What people see of a fit: one HTML page that opens offline."""

from edgeexit.report.fit_report import draw_report

__all__ = ["draw_report"]
