"""`edgeexit fit --report`: a fit as one page, from the evidence that it was fitted on."""

from collections.abc import Sequence
from pathlib import Path

from edgeexit.files import write_atomic
from edgeexit.fitting import FITTING_KINDS, Choice, Fit, FitOptions, ReadoutDataset
from edgeexit.fitting.options import DEFAULT_OPTIONS
from edgeexit.fitting.outcome import follow
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.report.curves import cross_fit
from edgeexit.report.marks import oracle, single_exits
from edgeexit.report.page import render_page
from edgeexit.report.sections import (
    comparison,
    exits_believed,
    exits_by_class,
    exits_taken,
    figures_first,
    summary,
    tradeoff,
)
from edgeexit.report.tradeoff import Marks
from edgeexit.report.words import Scale, Unit, describe_goal, quality_of


def draw_report(
    path: Path,
    *,
    title: str,
    exits: Sequence[str],
    dataset: ReadoutDataset,
    unit: Unit,
    fit: Fit,
    choice: Choice | None = None,
    kinds: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write a self-contained HTML page on a fit, whole or not at all.

    Args:
        path: of the page.
        title: its heading, such as the model's name.
        exits: names [K] of the exits.
        evidence: what the fit was made from, at the temperatures that the stages were read out under.
        unit: of the costs.
        fit: the fitted policy.
        choice: how `--policy auto` came to it; None where the kind was given.
        kinds: of policies to draw curves for, the simplest first; None: all.
        class_names: [C]; None: numbers stand for them.
        options: of the fit; the curves are fitted with the same.
        progress: advances by 1 with each kind.

    Raises OSError that names `path`: it cannot be written.

    """
    scale = Scale(unit=unit, whole=dataset.costs[-1])
    names = tuple(FITTING_KINDS) if kinds is None else kinds
    curves = cross_fit(names, dataset, options=options, progress=progress)
    marks = Marks(
        exits=tuple(exits),
        singles=single_exits(dataset),
        oracle=oracle(dataset),
        chosen=follow(fit.policy, dataset),
        kind=fit.policy.kind,
    )
    page = render_page(
        title=title,
        subtitle=f"The {fit.policy.kind} policy, fitted for {describe_goal(fit.goal, scale, quality_of(dataset))}.",
        key_figures=figures_first(marks, scale, dataset),
        sections=[
            summary(marks, scale, dataset, fit),
            *([] if choice is None else [comparison(choice, scale, dataset)]),
            tradeoff(curves, marks, scale, dataset),
            exits_taken(marks, scale, dataset, fit),
            exits_believed(exits, dataset, fit),
            exits_by_class(exits, dataset, marks.chosen, class_names),
        ],
    )
    write_atomic(path, page)
