"""The table rows of `edgeexit calibrator trend`, with a bar for the exit mix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeexit.cli.calibrator.status_rows import mix_text

if TYPE_CHECKING:
    from edgeexit_calibration import TrendPoint

COLUMNS = ("begin (UTC)", "span", "samples", "exits", "exit mix", "mean", "p50", "p99", "failed")
NARROW_COLUMNS = ("begin (UTC)", "span", "samples", "exits", "mean", "p99")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""One for each exit in a bar."""

_BAR_WIDTH = 20
_SPANS = ((86400, "d"), (3600, "h"), (60, "m"))


def trend_cells(point: "TrendPoint") -> Sequence[str]:
    """Return a row of a trend."""
    latency = point.latency
    return (
        f"{point.begin:%Y-%m-%d %H:%M}",
        _span_text(point.span_s),
        f"{point.samples:,}",
        mix_bar(point.rates),
        mix_text(point.rates),
        *(("-",) * 3 if latency is None else map(_milliseconds, (latency.mean_ms, latency.p50_ms, latency.p99_ms))),
        f"{point.failed:,}",
    )


def narrow_trend_cells(point: "TrendPoint") -> Sequence[str]:
    """Return a row of the narrow table of a trend."""
    latency = point.latency
    return (
        f"{point.begin:%m-%d %H:%M}",
        _span_text(point.span_s),
        f"{point.samples:,}",
        mix_bar(point.rates),
        *(("-",) * 2 if latency is None else map(_milliseconds, (latency.mean_ms, latency.p99_ms))),
    )


def mix_bar(rates: Sequence[float] | None) -> str:
    """Return the fractions of the exits as a bar of their digits, e.g. `00000000001111112222`."""
    bar, total = "", 0.0
    for index, rate in enumerate(rates or ()):
        total += rate
        bar += DIGITS[index % len(DIGITS)] * (round(total * _BAR_WIDTH) - len(bar))
    return bar


def _milliseconds(value: float) -> str:
    """Return an estimated latency with three digits."""
    return f"{value:.3g} ms"


def _span_text(span_s: int) -> str:
    length, unit = next((length, unit) for length, unit in _SPANS if span_s % length == 0)
    return f"{span_s // length} {unit}"
