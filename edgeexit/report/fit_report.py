"""Writes the report of a fit as one self-contained HTML page, for `edgeexit fit --report`."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeexit.files import write_atomic
from edgeexit.fitting import FITTING_KINDS, Choice, Fit, FitOptions, ReadoutDataset
from edgeexit.fitting.options import DEFAULT_OPTIONS
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.report.cost_scale import CostScale, CostUnit
from edgeexit.report.descriptions import describe_goal, quality_name
from edgeexit.report.fit_sections import (
    calibration_section,
    classes_section,
    comparison_section,
    exits_section,
    key_figures,
    summary_section,
    tradeoff_section,
)
from edgeexit.report.outcomes import report_outcomes
from edgeexit.report.page import render_page
from edgeexit.report.tradeoff_curves import cross_fit


class FitReport(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the report of a fit shows."""

    title: str
    """Heading of the page."""
    exits: Sequence[str]
    """Names [K] of the exits."""
    class_names: Sequence[str] | None = None
    """Names [C] of the classes; None: their indices."""
    dataset: ReadoutDataset
    """The readout dataset of the fit, at the temperatures at which it was recorded."""
    unit: CostUnit
    """Unit of the costs."""
    fit: Fit
    choice: Choice | None = None
    """The comparison of kinds by `--policy auto`; None if the user chose the kind."""
    options: FitOptions = DEFAULT_OPTIONS
    """Options of the fit; the curves are fitted with the same options."""
    kinds: Sequence[str] | None = None
    """Kinds of policies with a curve, the simplest first; None: all."""


def write_fit_report(path: Path, report: FitReport, *, progress: Progress = NO_PROGRESS) -> None:
    """Write the page to `path`; `progress` advances by 1 per kind.

    Raises OSError if the file cannot be written; then an existing file is unchanged.
    """
    dataset, fit = report.dataset, report.fit
    scale = CostScale(unit=report.unit, full_cost=dataset.costs[-1])
    kinds = tuple(FITTING_KINDS) if report.kinds is None else report.kinds
    curves = cross_fit(kinds, dataset, options=report.options, progress=progress)
    outcomes = report_outcomes(fit.policy, report.exits, dataset)
    page = render_page(
        title=report.title,
        subtitle=f"Policy {fit.policy.kind}, fitted for {describe_goal(fit.goal, scale, quality_name(dataset))}.",
        key_figures=key_figures(outcomes, scale, dataset),
        sections=[
            summary_section(outcomes, scale, dataset, fit),
            *([] if report.choice is None else [comparison_section(report.choice, scale, dataset)]),
            tradeoff_section(curves, outcomes, scale, dataset),
            exits_section(outcomes, scale, dataset, fit),
            calibration_section(report.exits, dataset, fit),
            classes_section(report.exits, dataset, outcomes.fitted, report.class_names),
        ],
    )
    write_atomic(path, page)
