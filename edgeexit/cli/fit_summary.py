"""Prints the result of `edgeexit fit` for people: tables on standard output, sentences on standard error."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeexit.console import notes, print_table, warn
from edgeexit.formatting import milliseconds, percent, threshold_text

if TYPE_CHECKING:
    from edgeexit.bundle import Costs
    from edgeexit.fitting import Choice, Fit, KindComparison, ReadoutDataset


def print_comparison(choice: "Choice", dataset: "ReadoutDataset", costs: "Costs") -> None:
    """Print the comparison of the kinds, the simplest first."""
    from edgeexit.fitting import MaxRisk

    agreement = isinstance(choice.fit.goal, MaxRisk) or not dataset.has_labels
    print_table(
        f"policies at a mean cost of {_cost(choice.cost, costs)}, {choice.folds}-fold cross-validation on "
        f"{choice.samples} samples",
        ("policy", "agreement" if agreement else "accuracy", "behind the best", "mean cost", ""),
        [_row(comparison, costs) for comparison in choice.comparisons],
    )


def print_fit(fitted: "Fit", exits: Sequence[str], dataset: "ReadoutDataset", costs: "Costs") -> None:
    """Print thresholds, exit rates, cost, accuracy, and the certificate if there is one."""
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
        f"mean cost {_cost(expected.mean_cost, costs)}; the full model costs {_cost(full, costs)}, "
        f"{full / expected.mean_cost:.2f}x as much"
    )
    role = "certifying" if fitted.certificate else "fitting"
    quality = percent(1 - expected.mean_loss)
    if dataset.has_labels:
        final = percent(1 - expected.final_loss)
        notes.print(f"accuracy {quality}, final exit {final}, on the {_samples(expected.samples, role)}")
    else:
        notes.print(f"agreement with the final exit {quality} on the {_samples(expected.samples, role)}")
    if fitted.certificate is not None:
        certificate = fitted.certificate
        notes.print(
            f"certified on {_samples(certificate.samples)}: disagreement at most {percent(certificate.risk)} with "
            f"probability {100 * (1 - certificate.delta):g} % (observed {percent(certificate.observed)})"
        )
    if all(threshold is None for threshold in policy.thresholds):
        warn("no sample exits early under this goal; give more samples or a less strict goal")


def _samples(count: int, role: str = "") -> str:
    noun = f"{role} sample".strip()
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


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
