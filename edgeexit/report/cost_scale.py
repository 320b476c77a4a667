"""How a report shows costs: in milliseconds, or as a percentage of the full model's operator count."""

from typing import Literal

import msgspec
import numpy as np

from edgeexit.fitting.readout_dataset import Values
from edgeexit.formatting import milliseconds, percent

CostUnit = Literal["ms", "macs"]


class CostScale(msgspec.Struct, frozen=True, kw_only=True):
    """Converts costs to text and to positions on an axis."""

    unit: CostUnit
    full_cost: float
    """Cost of the full model, in `unit`."""

    def axis_values(self, costs: Values | float) -> Values:
        """Return the positions of costs on an axis: milliseconds, or fractions of the full model's cost."""
        return np.asarray(costs, dtype=np.float64) / (1.0 if self.unit == "ms" else self.full_cost)

    def text(self, cost: float) -> str:
        """Return a cost as text."""
        return milliseconds(cost) if self.unit == "ms" else f"{percent(cost / self.full_cost)} of full"

    def speedup(self, cost: float) -> str:
        """Return the full model's cost divided by a cost, as text."""
        return f"{self.full_cost / cost:.2f}x"

    @property
    def axis(self) -> dict[str, object]:
        """Title and ticks of a plotly axis of costs."""
        if self.unit == "ms":
            return {"title": "mean latency, ms"}
        return {"title": "mean cost (full model: 100%)", "tickformat": ".2~%"}

    @property
    def hover(self) -> str:
        """The plotly hover template of a cost on the x axis."""
        return "%{x:.3f} ms" if self.unit == "ms" else "%{x:.1%} of full cost"
