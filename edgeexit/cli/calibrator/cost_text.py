"""How the calibrator's commands show the costs of a cohort and its budget."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeexit_calibration import CohortCosts


def costs_text(costs: "CohortCosts") -> str:
    """Return the cost of each exit with its unit and source, e.g. `1.2 / 3.4 ms (median of 12 devices)`."""
    if costs.unit == "ms":
        return f"{' / '.join(f'{cost:.3g}' for cost in costs.cumulative)} ms ({source_text(costs)})"
    return f"{' / '.join(f'{cost:,.0f}' for cost in costs.cumulative)} multiply-accumulates ({source_text(costs)})"


def source_text(costs: "CohortCosts") -> str:
    """Return where the costs come from."""
    if not costs.devices:
        return "registered"
    return "measured by 1 device" if costs.devices == 1 else f"median of {costs.devices} devices"
