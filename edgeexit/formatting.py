"""How figures are written for people, on the console and in reports."""


def percent(value: float) -> str:
    """Return a fraction as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def milliseconds(value: float | None) -> str:
    """Return a latency in ms with three decimals, or a dash where it is not known."""
    return "-" if value is None else f"{value:.3f} ms"


def threshold_text(value: float | None) -> str:
    """Return a policy's threshold as people read it: `never` where no sample can exit."""
    return "never" if value is None else f"{value:.6g}"
