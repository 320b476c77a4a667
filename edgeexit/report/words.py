"""How a report names and writes its figures: accuracy or agreement, milliseconds or shares of the whole model."""

from typing import Literal

import msgspec
import numpy as np

from edgeexit.fitting import BeemRule, Budget, Fit, Goal, MaxDrop, MaxRisk, ReadoutDataset
from edgeexit.fitting.readout_dataset import Values
from edgeexit.formatting import milliseconds, percent

Unit = Literal["ms", "macs"]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How costs are written: as ms, or as shares of the whole model's operators."""

    unit: Unit
    whole: float
    """What the whole model costs."""

    def plotted(self, costs: Values | float) -> Values:
        """Return costs as an axis shows them."""
        return np.asarray(costs, dtype=np.float64) / (1.0 if self.unit == "ms" else self.whole)

    def write(self, cost: float) -> str:
        """Return a cost in words."""
        return milliseconds(cost) if self.unit == "ms" else f"{percent(cost / self.whole)} of full"

    def speedup(self, cost: float) -> str:
        """Return how many times less a cost is than the whole model's."""
        return f"{self.whole / cost:.2f}x"

    @property
    def axis(self) -> dict[str, object]:
        """Title and ticks of an axis of costs, for plotly."""
        if self.unit == "ms":
            return {"title": "mean latency, ms"}
        return {"title": "mean cost (whole model: 100%)", "tickformat": ".0%"}

    @property
    def hover(self) -> str:
        """How a hover text writes x, in plotly's words."""
        return "%{x:.3f} ms" if self.unit == "ms" else "%{x:.1%} of full cost"


def quality_of(dataset: ReadoutDataset) -> str:
    """Return what 1 - loss is on this evidence."""
    if dataset.maps is None:
        return "accuracy" if dataset.has_labels else "agreement with the final exit"
    return "pixel accuracy" if dataset.has_labels else "share of pixels as the final exit's"


def describe_oracle(dataset: ReadoutDataset) -> str:
    """Return where the oracle leaves, as the end of a sentence on an exit."""
    if dataset.maps is not None:
        return "whose map loses least"
    return "that is right" if dataset.has_labels else "that answers as the final one does"


def describe_samples(dataset: ReadoutDataset) -> str:
    """Return what the data was."""
    known = "with labels" if dataset.has_labels else "without labels"
    classes = "" if dataset.classes is None or dataset.maps is not None else f" of {dataset.classes} classes"
    return f"{len(dataset):,} samples{classes} {known}"


def describe_goal(goal: Goal | BeemRule, scale: Scale, quality: str) -> str:
    """Return what was asked for, as a noun phrase."""
    match goal:
        case Budget(cost=cost):
            times = scale.speedup(cost)
            return f"the best {quality} within a mean cost of {scale.write(cost)}, {times} less than the whole model"
        case MaxDrop(drop=drop):
            points = "point" if drop == 0.01 else "points"  # noqa: PLR2004 - one percent
            return f"the least cost whose {quality} is at most {100 * drop:g} {points} below the final exit's"
        case MaxRisk(risk=risk, delta=delta):
            return (
                f"the least cost at which at most {100 * risk:.3g} % of the answers differ from the final exit's, "
                f"with {100 * (1 - delta):.3g} % confidence"
            )
        case BeemRule(rule=rule):
            return f"BEEM's {rule} rule, exit by exit"


def describe_promise(fit: Fit, scale: Scale) -> str:
    """Return what is certified of a fit, or that nothing is."""
    certificate, expected = fit.certificate, fit.expected
    if certificate is None:
        return (
            f"Nothing is certified: these figures are over the {expected.samples:,} samples that chose the "
            "thresholds, which flatters them a little. For a promise on new inputs, fit with --max-risk."
        )
    return (
        f"Certified on {certificate.samples:,} samples that did not choose the policy: with "
        f"{100 * (1 - certificate.delta):.3g} % confidence, at most {percent(certificate.risk)} of the answers on inputs "
        f"like these differ from the final exit's. Observed there: {percent(certificate.observed)}, upper bound "
        f"{percent(certificate.upper_bound)}, at a mean cost of {scale.write(expected.mean_cost)}."
    )
