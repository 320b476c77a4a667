"""What `edgeexit fit` tells people: tables on standard output, sentences on standard error."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeexit.console import notes, print_table, warn
from edgeexit.formatting import milliseconds, percent, threshold_text

if TYPE_CHECKING:
    from edgeexit.bundle import Costs
    from edgeexit.fitting import Choice, Fit, KindComparison, ReadoutDataset


def print_comparison(choice: "Choice", dataset: "ReadoutDataset", costs: "Costs") -> None:
    """Print how the kinds compared, the simplest first."""
    from edgeexit.fitting import MaxRisk

    agreement = isinstance(choice.fit.goal, MaxRisk) or not dataset.has_labels
    print_table(
        f"policies at a mean cost of {_cost(choice.cost, costs)}, {choice.folds}-fold cross-validation on "
        f"{choice.samples} samples",
        ("policy", "agreement" if agreement else "accuracy", "behind the best", "mean cost", ""),
        [_row(comparison, costs) for comparison in choice.comparisons],
    )


def print_fit(fitted: "Fit", exits: Sequence[str], dataset: "ReadoutDataset", costs: "Costs") -> None:
    """Print thresholds and exit rates, what they come to, and the certificate where there is one."""
    policy, expected = fitted.policy, fitted.expected
    columns = {
        "exit": exits,
        "threshold": (*map(threshold_text, policy.thresholds), "always"),
        "exit rate": tuple(map(percent, expected.exit_rates)),
    }
    if set(policy.temperatures) != {1.0}:
        columns["temperature"] = tuple(f"{temperature:g}" for temperature in policy.temperatures)
    title = f"{policy.kind}, fitted on {_samples(len(dataset))}"
    print_table(title, tuple(columns), list(zip(*columns.values(), strict=True)))

    full = costs.cumulative[-1]
    notes.print(
        f"mean cost {_cost(expected.mean_cost, costs)} of {_cost(full, costs)}, {full / expected.mean_cost:.2f}x less"
    )
    chose = "certified it" if fitted.certificate else "chose it"
    right = percent(1 - expected.mean_loss)
    if dataset.has_labels:
        final = percent(1 - expected.final_loss)
        notes.print(f"accuracy {right}, the final exit's {final}, on the {_samples(expected.samples)} that {chose}")
    else:
        notes.print(f"agreement with the final exit {right} on the {_samples(expected.samples)} that {chose}")
    if fitted.certificate is not None:
        certificate = fitted.certificate
        notes.print(
            f"certified on {certificate.samples} samples: disagreement at most {percent(certificate.risk)} with "
            f"probability {1 - certificate.delta:.0%} (observed {percent(certificate.observed)})"
        )
    if all(threshold is None for threshold in policy.thresholds):
        warn("nothing leaves early under this goal; give more data or a bolder one")


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count:,} samples"


def _row(comparison: "KindComparison", costs: "Costs") -> tuple[str, ...]:
    if comparison.mean_loss is None or comparison.mean_cost is None:
        return (comparison.kind, "-", "-", "-", comparison.failure or "")
    behind = "best"
    if comparison.behind and comparison.standard_error is not None:
        behind = f"{100 * comparison.behind:.2f} ± {100 * comparison.standard_error:.2f} points"
    return (
        comparison.kind,
        percent(1 - comparison.mean_loss),
        behind,
        _cost(comparison.mean_cost, costs),
        "chosen" if comparison.chosen else "",
    )


def _cost(value: float, costs: "Costs") -> str:
    return f"{value:,.0f} MACs" if costs.unit == "macs" else milliseconds(value)
