"""The sections of a fit report: their texts, tables and charts."""

from collections.abc import Sequence

from edgeexit.fitting import Choice, Fit, MaxRisk, ReadoutDataset
from edgeexit.fitting.outcome import PolicyOutcome
from edgeexit.formatting import percent, threshold_text
from edgeexit.report.class_depth import class_depths, shallowest_and_deepest
from edgeexit.report.cost_scale import CostScale
from edgeexit.report.descriptions import (
    describe_certificate,
    describe_goal,
    describe_oracle,
    describe_samples,
    quality_name,
)
from edgeexit.report.fit_figures import draw_class_depths, draw_exit_rates, draw_reliability, exit_colours
from edgeexit.report.outcomes import ReportOutcomes
from edgeexit.report.page import Chart, KeyFigure, Section, Table
from edgeexit.report.reliability import BINS, reliability
from edgeexit.report.tradeoff_curves import TradeoffCurves
from edgeexit.report.tradeoff_figure import draw_tradeoff, shown_kinds


def key_figures(outcomes: ReportOutcomes, scale: CostScale, dataset: ReadoutDataset) -> list[KeyFigure]:
    """Return the speed-up, the quality and the mean cost of the fitted policy."""
    quality = quality_name(dataset)
    if dataset.has_labels:
        quality = f"{quality}; full model: {percent(1 - outcomes.full_model.mean_loss)}"
    fitted = outcomes.fitted
    return [
        KeyFigure(value=scale.speedup(fitted.mean_cost), meaning="mean speed-up over the full model"),
        KeyFigure(value=percent(1 - fitted.mean_loss), meaning=quality),
        KeyFigure(value=scale.text(fitted.mean_cost), meaning="mean cost per sample"),
    ]


def summary_section(outcomes: ReportOutcomes, scale: CostScale, dataset: ReadoutDataset, fit: Fit) -> Section:
    """Return the table of the fitted policy, the full model, each exit alone and the oracle."""

    def row(name: str, outcome: PolicyOutcome) -> tuple[str, ...]:
        cost = outcome.mean_cost
        return name, scale.text(cost), percent(1 - outcome.mean_loss), scale.speedup(cost)

    *early, final = zip(outcomes.exits, outcomes.single_exits, strict=True)
    rows = [
        row(f"{outcomes.kind}, as fitted", outcomes.fitted),
        row(f"full model ({final[0]})", final[1]),
        *(row(f"always {name}", outcome) for name, outcome in early),
        row("oracle", outcomes.oracle),
    ]
    costs = (
        "measured stage latencies"
        if scale.unit == "ms"
        else "operator counts, not latencies; `edgeexit profile` measures latencies"
    )
    return Section(
        title="Summary",
        texts=(
            f"The table covers all {describe_samples(dataset)}. Costs are {costs}.",
            describe_certificate(fit, scale),
        ),
        tables=(
            Table(columns=("policy", "mean cost", quality_name(dataset), "speed-up"), rows=tuple(rows), strong=(0,)),
        ),
    )


def comparison_section(choice: Choice, scale: CostScale, dataset: ReadoutDataset) -> Section:
    """Return the table in which `--policy auto` compared the kinds of policies."""
    agreement = isinstance(choice.fit.goal, MaxRisk) or not dataset.has_labels
    rows, failures = [], []
    for comparison in choice.comparisons:
        if comparison.mean_loss is None or comparison.mean_cost is None or comparison.behind is None:
            failures.append(f"{comparison.kind} could not be fitted: {comparison.failure}.")
            continue
        error = 100 * (comparison.standard_error or 0.0)
        behind = f"{100 * comparison.behind:.2f} ± {error:.2f} points" if comparison.behind else "best"
        row = (percent(1 - comparison.mean_loss), behind, scale.text(comparison.mean_cost))
        rows.append((comparison.kind + (", chosen" if comparison.chosen else ""), *row))
    chosen = next(index for index, row in enumerate(rows) if row[0].endswith(", chosen"))
    quality = "agreement with the final exit" if agreement else quality_name(dataset)
    return Section(
        title="Comparison of the kinds",
        texts=(
            (
                f"Each kind is fitted for a mean cost of {scale.text(choice.cost)} and scored on samples that the fit "
                f"did not use ({choice.folds}-fold cross-validation on {choice.samples:,} samples). The simplest kind "
                "whose difference to the best kind can be explained by chance is chosen."
            ),
        ),
        tables=(
            Table(columns=("policy", quality, "behind the best", "mean cost"), rows=tuple(rows), strong=(chosen,)),
        ),
        notes=tuple(failures),
    )


def tradeoff_section(
    curves: TradeoffCurves, outcomes: ReportOutcomes, scale: CostScale, dataset: ReadoutDataset
) -> Section:
    """Return the chart of accuracy over cost for every kind of policy."""
    quality = quality_name(dataset)
    texts = [
        (
            "The curves are cross-fitted: thresholds are chosen on one half of the samples and scored on the other "
            "half, and vice versa, so that the curves are not optimistic. A fit on all samples tends to be slightly "
            f"better. The oracle exits at the first exit {describe_oracle(dataset)}; no real policy can do this."
        ),
    ]
    if len(curves.curves) > 1:
        texts.append(
            f"The lower chart shows the difference in {quality} to the kind {curves.baseline} at the same mean cost, "
            "in percentage points. Differences inside the grey band can be explained by chance at this number of "
            "samples. It is the 95 % band of the kind in the legend; the hover text shows the band of each kind."
        )
    if curves.samples < len(dataset):
        texts[0] += f" They use {curves.samples:,} of the samples, drawn at random."
    notes = [f"{kind} has no curve: {reason}." for kind, reason in curves.left_out.items()]
    hidden = len(curves.curves) - len(shown_kinds(curves, outcomes.kind))
    if hidden:
        notes.insert(0, f"{hidden} more kinds are hidden. Click a name in the legend to show or hide a kind.")
    return Section(
        title=f"{quality[0].upper()}{quality[1:]} over {'latency' if scale.unit == 'ms' else 'cost'}",
        texts=tuple(texts),
        charts=(
            Chart(
                name="tradeoff",
                figure=draw_tradeoff(curves, outcomes, scale, quality),
                description=f"{quality} over mean cost for {', '.join(c.kind for c in curves.curves) or 'no kind'}",
            ),
        ),
        notes=tuple(notes),
    )


def exits_section(outcomes: ReportOutcomes, scale: CostScale, dataset: ReadoutDataset, fit: Fit) -> Section:
    """Return the exit rates of the policy, and the accuracy of the samples at each exit."""
    count = len(outcomes.exits)
    rates, oracle_rates = outcomes.fitted.rates, outcomes.oracle.rates
    rows = []
    for k, name in enumerate(outcomes.exits):
        exit_mask = outcomes.fitted.exits == k
        losses, final_losses = outcomes.fitted.losses[exit_mask], outcomes.full_model.losses[exit_mask]
        threshold = "always" if k == count - 1 else threshold_text(fit.policy.thresholds[k])
        scores = (percent(1 - losses.mean()), percent(1 - final_losses.mean())) if exit_mask.any() else ("-", "-")
        rows.append((name, threshold, percent(rates[k]), *scores, scale.text(dataset.costs[k])))
    quality = quality_name(dataset)
    columns = ("exit", "threshold", "exit rate", quality, f"final exit's {quality}", "cost")
    # Without labels the final exit is the reference, so its own column would be 100 %.
    shown = [0, 1, 2, 3, 4, 5] if dataset.has_labels else [0, 1, 2, 3, 5]
    explanation = f"The table shows the {quality} of the samples that exit at each exit"
    explanation += f", and the {quality} of the final exit on the same samples." if dataset.has_labels else "."
    oracle = f"The oracle exits at the first exit {describe_oracle(dataset)}."
    return Section(
        title="Exits",
        texts=(
            f"Goal of the fit: {describe_goal(fit.goal, scale, quality)}.",
            f"Chart and table cover all {len(dataset):,} samples. {oracle} {explanation}",
        ),
        charts=(
            Chart(
                name="exit-rates",
                figure=draw_exit_rates(outcomes.exits, rates, oracle_rates, dataset.costs, scale),
                description="fraction of samples that exit at each exit, for the fitted policy and the oracle",
            ),
        ),
        tables=(
            Table(
                columns=tuple(columns[index] for index in shown),
                rows=tuple(tuple(row[index] for index in shown) for row in rows),
            ),
        ),
    )


def calibration_section(exits: Sequence[str], dataset: ReadoutDataset, fit: Fit) -> Section:
    """Return the reliability diagram of each exit, before and after the fitted temperatures."""
    title = "Calibration of the exits"
    if dataset.maps is not None:
        text = (
            "Not available for segmentation and tagging: a readout averages the probabilities over the pixels or "
            "tokens of a sample, so it is not the confidence of one prediction."
        )
        return Section(title=title, texts=(text,))
    fitted = dataset.at(fit.policy.temperatures)
    # Without labels the final exit would be compared with itself.
    shown = dataset.exits if dataset.has_labels else dataset.exits - 1
    charts = []
    for k, colour in zip(range(shown), exit_colours(dataset.exits), strict=False):
        before = reliability(dataset, k)
        differs = fitted.temperatures[k] != dataset.temperatures[k]
        after = reliability(fitted, k) if differs else None
        ece = f"ECE {percent(before.ece)}"
        if after is not None:
            ece += f" \N{RIGHTWARDS ARROW} {percent(after.ece)}"
        lines = (ece, f"T = {fitted.temperatures[k]:.2f}") if fitted.temperatures != dataset.temperatures else (ece,)
        charts.append(
            Chart(
                name=f"reliability-{k}",
                figure=draw_reliability(before, after, colour),
                description=f"reliability diagram of exit {exits[k]}",
                heading=exits[k],
                lines=lines,
            )
        )
    correct = "are correct" if dataset.has_labels else "agree with the final exit"
    texts = [
        (
            f"A reliability diagram shows the fraction of predictions that {correct} (vertical) over their top-1 "
            "probability (horizontal). On the dotted line an exit is perfectly calibrated; below it, the exit is "
            "overconfident. Grey bars show the number of samples."
        ),
        (
            f"ECE is the expected calibration error: the mean distance from the dotted line over {BINS} bins. With few "
            "samples it is above 0 even for a perfectly calibrated exit."
        ),
    ]
    if fitted.temperatures != dataset.temperatures:
        texts.append("Grey lines show the exits before the fitted temperatures T, coloured lines after.")
    return Section(title=title, texts=tuple(texts), charts=tuple(charts))


def classes_section(
    exits: Sequence[str], dataset: ReadoutDataset, fitted: PolicyOutcome, class_names: Sequence[str] | None
) -> Section:
    """Return the exit rates of each class."""
    title = "Exits per class"
    if dataset.maps is not None:
        text = "Not available for segmentation and tagging: a sample contains several classes."
        return Section(title=title, texts=(text,))
    depths = class_depths(dataset, fitted)
    count = max(depth.index for depth in depths) + 1
    names = class_names if class_names is not None and len(class_names) >= count else [str(c) for c in range(count)]
    grouping = "true class" if dataset.has_labels else "class that the final exit predicts"
    right_side = "accuracy" if dataset.has_labels else "agreement with the final exit"
    text = f"The bars show the exit rates per {grouping}, sorted by mean exit; on the right is the {right_side}."
    shallow, deep = shallowest_and_deepest(depths)
    if deep:
        text += f" The chart shows the {len(shallow)} shallowest and the {len(deep)} deepest of {len(depths)} classes."
    missing = (dataset.classes or count) - len(depths)
    notes = () if missing <= 0 else (f"{missing} classes have no samples.",)
    return Section(
        title=title,
        texts=(text,),
        charts=(
            Chart(
                name="classes",
                figure=draw_class_depths(depths, exits, names),
                description=f"fraction of samples that exit at each exit, for each {grouping}",
            ),
        ),
        notes=notes,
    )
