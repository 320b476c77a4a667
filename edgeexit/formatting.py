"""Formats numbers for the console and for reports."""


def percent(value: float) -> str:
    """Return a fraction as a percentage with one decimal, e.g. `12.5 %`."""
    return f"{100 * value:.1f} %"


def milliseconds(value: float | None) -> str:
    """Return a latency in ms with three decimals, or a dash if it is unknown."""
    return "-" if value is None else f"{value:.3f} ms"


def threshold_text(value: float | None) -> str:
    """Return a policy's threshold with six digits, or `never` if it is None: no sample exits there."""
    return "never" if value is None else f"{value:.6g}"
