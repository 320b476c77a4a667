"""What stands under each heading of a fit's report: words, tables and figures."""

from collections.abc import Sequence

from edgeexit.fitting import Choice, Fit, MaxRisk, ReadoutDataset
from edgeexit.fitting.outcome import PolicyOutcome
from edgeexit.formatting import percent, threshold_text
from edgeexit.report.curves import Curves
from edgeexit.report.depth import class_depths, ends
from edgeexit.report.figures import draw_class_depths, draw_exit_rates, draw_reliability, exit_colours
from edgeexit.report.page import Chart, KeyFigure, Section, Table
from edgeexit.report.reliability import BINS, reliability
from edgeexit.report.tradeoff import Marks, draw_tradeoff, shown_kinds
from edgeexit.report.words import Scale, describe_goal, describe_oracle, describe_promise, describe_samples, quality_of


def figures_first(marks: Marks, scale: Scale, dataset: ReadoutDataset) -> list[KeyFigure]:
    """Return the numbers to see first."""
    quality, whole = quality_of(dataset), marks.singles[-1]
    final = f"{quality}; the whole model's is {percent(1 - whole.mean_loss)}" if dataset.has_labels else quality
    return [
        KeyFigure(value=scale.speedup(marks.chosen.mean_cost), meaning="less than the whole model, on average"),
        KeyFigure(value=percent(1 - marks.chosen.mean_loss), meaning=final),
        KeyFigure(value=scale.write(marks.chosen.mean_cost), meaning="mean cost of a sample"),
    ]


def summary(marks: Marks, scale: Scale, dataset: ReadoutDataset, fit: Fit) -> Section:
    """Return what the policy does, beside the whole model, single exits and the oracle."""

    def row(name: str, outcome: PolicyOutcome) -> tuple[str, ...]:
        cost = outcome.mean_cost
        return name, scale.write(cost), percent(1 - outcome.mean_loss), scale.speedup(cost)

    *early, whole = zip(marks.exits, marks.singles, strict=True)
    rows = [
        row(f"{marks.kind}, as fitted", marks.chosen),
        row(f"whole model ({whole[0]})", whole[1]),
        *(row(f"always {name}", outcome) for name, outcome in early),
        row("oracle", marks.oracle),
    ]
    costs = "measured stage latencies" if scale.unit == "ms" else "operator counts, not time: run `edgeexit profile`"
    return Section(
        title="In figures",
        texts=(f"Over all {describe_samples(dataset)}; costs are {costs}.", describe_promise(fit, scale)),
        tables=(
            Table(columns=("policy", "mean cost", quality_of(dataset), "speed-up"), rows=tuple(rows), strong=(0,)),
        ),
    )


def comparison(choice: Choice, scale: Scale, dataset: ReadoutDataset) -> Section:
    """Return how `--policy auto` compared the kinds."""
    agreement = isinstance(choice.fit.goal, MaxRisk) or not dataset.has_labels
    rows, failures = [], []
    for comparison in choice.comparisons:
        if comparison.mean_loss is None or comparison.mean_cost is None or comparison.behind is None:
            failures.append(f"{comparison.kind} could not be fitted: {comparison.failure}.")
            continue
        error = 100 * (comparison.standard_error or 0.0)
        behind = f"{100 * comparison.behind:.2f} ± {error:.2f} points" if comparison.behind else "best"
        row = (percent(1 - comparison.mean_loss), behind, scale.write(comparison.mean_cost))
        rows.append((comparison.kind + (", chosen" if comparison.chosen else ""), *row))
    chosen = next(index for index, row in enumerate(rows) if row[0].endswith(", chosen"))
    quality = "agreement with the final exit" if agreement else quality_of(dataset)
    return Section(
        title="How the kinds compared",
        texts=(
            (
                f"All fitted for a mean cost of {scale.write(choice.cost)} and scored on samples left out of the fit "
                f"({choice.folds}-fold cross-validation on {choice.samples:,} samples). Taken is the simplest kind "
                "that is not behind the best one by more than chance."
            ),
        ),
        tables=(
            Table(columns=("policy", quality, "behind the best", "mean cost"), rows=tuple(rows), strong=(chosen,)),
        ),
        notes=tuple(failures),
    )


def tradeoff(curves: Curves, marks: Marks, scale: Scale, dataset: ReadoutDataset) -> Section:
    """Return accuracy over cost of every kind."""
    quality = quality_of(dataset)
    texts = [
        (
            "Every curve is cross-fitted: thresholds chosen on one half of the samples are scored on the other, and "
            "the other way round, so no curve flatters itself. A fit on all samples tends to be a little better. The "
            f"oracle leaves at the first exit {describe_oracle(dataset)}; no policy can know it."
        ),
    ]
    if len(curves.curves) > 1:
        texts.append(
            f"Below: how much more {quality} than {curves.baseline} at the same mean cost. Inside the grey band a "
            "difference is within what chance alone gives for this many samples (95 %, sample by sample; worked out "
            "for the kind that the legend names, each kind's own is in its hover text)."
        )
    if curves.samples < len(dataset):
        texts[0] += f" They are over {curves.samples:,} of the samples, drawn at random."
    notes = [f"{kind} is left out: {reason}." for kind, reason in curves.left_out.items()]
    hidden = len(curves.curves) - len(shown_kinds(curves, marks.kind))
    if hidden:
        notes.insert(0, f"{hidden} more kinds wait in the legend: click a name to show or hide it.")
    return Section(
        title=f"{quality[0].upper()}{quality[1:]} over {'latency' if scale.unit == 'ms' else 'cost'}",
        texts=tuple(texts),
        charts=(
            Chart(
                name="tradeoff",
                figure=draw_tradeoff(curves, marks, scale, quality),
                description=f"{quality} over mean cost for {', '.join(c.kind for c in curves.curves) or 'no kind'}",
            ),
        ),
        notes=tuple(notes),
    )


def exits_taken(marks: Marks, scale: Scale, dataset: ReadoutDataset, fit: Fit) -> Section:
    """Return where samples leave under the policy, and how right they are there."""
    count = len(marks.exits)
    policy, best = marks.chosen.rates, marks.oracle.rates
    rows = []
    for k, name in enumerate(marks.exits):
        exit_mask = marks.chosen.exits == k
        there, final = marks.chosen.losses[exit_mask], marks.singles[-1].losses[exit_mask]
        threshold = "always" if k == count - 1 else threshold_text(fit.policy.thresholds[k])
        seen = (percent(1 - there.mean()), percent(1 - final.mean())) if exit_mask.any() else ("-", "-")
        rows.append((name, threshold, percent(policy[k]), *seen, scale.write(dataset.costs[k])))
    quality = quality_of(dataset)
    shown = ("exit", "threshold", "leave", quality, "final exit's", "cost")
    known = dataset.has_labels  # without labels the final exit is always right
    kept = [0, 1, 2, 3, 4, 5] if known else [0, 1, 2, 3, 5]
    oracle = describe_oracle(dataset)
    beside = f"The {quality} is that of the samples which leave there"
    beside += "; beside it, what the final exit makes of the same samples." if known else "."
    return Section(
        title="Where samples leave",
        texts=(
            f"Asked for: {describe_goal(fit.goal, scale, quality)}.",
            f"Over all {len(dataset):,} samples; the oracle leaves at the first exit {oracle}. {beside}",
        ),
        charts=(
            Chart(
                name="exit-rates",
                figure=draw_exit_rates(marks.exits, policy, best, dataset.costs, scale),
                description="share of samples that leave at each exit, under the fitted policy and the oracle",
            ),
        ),
        tables=(
            Table(
                columns=tuple(shown[index] for index in kept),
                rows=tuple(tuple(row[index] for index in kept) for row in rows),
            ),
        ),
    )


def exits_believed(exits: Sequence[str], dataset: ReadoutDataset, fit: Fit) -> Section:
    """Return reliability by exit, before and after the fitted temperatures."""
    title = "How far the exits can be believed"
    if dataset.maps is not None:
        text = (
            "Left out for maps: a readout averages probabilities over the pixels of a sample, so there is no one "
            "answer to be sure of."
        )
        return Section(title=title, texts=(text,))
    fitted = dataset.at(fit.policy.temperatures)
    # Without labels the final exit is compared with itself, which says nothing.
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
                description=f"reliability of exit {exits[k]}",
                heading=exits[k],
                lines=lines,
            )
        )
    truth = "right" if dataset.has_labels else "what the final exit answers"
    texts = [
        (
            f"Of the samples that an exit is so sure of (top-1 probability, across), how many are {truth} (up). On the "
            "dotted line an exit is as sure as it is right; below it, too sure. Grey bars: where the samples are."
        ),
        (
            f"ECE is the expected calibration error, the mean distance from that line over {BINS} bins; few samples "
            "alone keep it above 0."
        ),
    ]
    if fitted.temperatures != dataset.temperatures:
        texts.append("Grey lines: before the fitted temperatures T; coloured: under them.")
    return Section(title=title, texts=tuple(texts), charts=tuple(charts))


def exits_by_class(
    exits: Sequence[str], dataset: ReadoutDataset, chosen: PolicyOutcome, class_names: Sequence[str] | None
) -> Section:
    """Return where samples leave, class by class."""
    title = "How deep each class goes"
    if dataset.maps is not None:
        return Section(title=title, texts=("Left out for maps: a map holds many classes.",))
    depths = class_depths(dataset, chosen)
    count = max(depth.index for depth in depths) + 1
    names = class_names if class_names is not None and len(class_names) >= count else [str(c) for c in range(count)]
    whose = "true class" if dataset.has_labels else "class that the final exit answers with"
    text = f"Samples by {whose}, the class that leaves earliest on top; at the right, the share answered "
    text += "rightly." if dataset.has_labels else "as the final exit does."
    shallow, deep = ends(depths)
    if deep:
        text += (
            f" Of {len(depths)} classes, the {len(shallow)} that leave earliest and the {len(deep)} that go deepest."
        )
    missing = (dataset.classes or count) - len(depths)
    notes = () if missing <= 0 else (f"{missing} of the classes have no samples here.",)
    return Section(
        title=title,
        texts=(text,),
        charts=(
            Chart(
                name="classes",
                figure=draw_class_depths(depths, exits, names),
                description=f"share of samples that leave at each exit, for each {whose}",
            ),
        ),
        notes=notes,
    )
