"""`edgeexit fit --report`: a fit as one page, from the evidence that it was fitted on."""

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeexit.files import write_atomic
from edgeexit.fitting import Choice, Fit, ReadoutDataset
from edgeexit.fitting.outcome import follow
from edgeexit.policies import KINDS
from edgeexit.report.curves import cross_fit
from edgeexit.report.marks import oracle, single_exits
from edgeexit.report.page import draw_page
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
    seed: int,
    kinds: Sequence[str] = tuple(KINDS),
    class_names: Sequence[str] | None = None,
    temperatures: bool = True,
    weights: str | tuple[float, ...] = "accuracy",
    on_step: Callable[[int], None] = lambda _: None,
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
        seed: of the halves that the curves are cross-fitted on, and of what kinds learn.
        kinds: of policies to draw curves for, the simplest first.
        class_names: [C]; None: numbers stand for them.
        temperatures: whether kinds may fit temperatures, as in `fit_policy`.
        weights: BEEM's, as in `fit_policy`.
        on_step: told 1 after each kind.

    Raises OSError that names `path`: it cannot be written.

    """
    scale = Scale(unit=unit, whole=dataset.costs[-1])
    curves = cross_fit(kinds, dataset, temperatures=temperatures, weights=weights, seed=seed, on_step=on_step)
    marks = Marks(
        exits=tuple(exits),
        singles=single_exits(dataset),
        oracle=oracle(dataset),
        chosen=follow(fit.policy, dataset),
        kind=fit.policy.kind,
    )
    page = draw_page(
        title=title,
        lede=f"The {fit.policy.kind} policy, fitted for {describe_goal(fit.goal, scale, quality_of(dataset))}.",
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
