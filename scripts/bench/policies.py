"""Compares exit policies: ResNet-56 with four exits on CIFAR-10, at budgets from 40 % to 90 % of its cost.

    python scripts/bench/policies.py --cifar FILE.npz --weights FILE.th [--cache FILE.npz] [--json]

The files are those of precision.py. Trunk and exits are fine-tuned together with a fixed seed, then compiled. Every
policy reads the readouts of the compiled stages. Costs are multiply-accumulates, as fractions of the full model's.

Policies are fitted on one half of the test images and scored on the other, for several random halvings. Training images
are not used, because the network is overconfident on them. One table shows by how much `--policy auto` is more accurate
than each other fitter at the mean cost of that fitter, with the standard error over the images.

Another table is about `--max-risk`. Policies are fitted on samples that are drawn from the test images. The table shows
how often the disagreement on all test images is at most the risk.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from comparing import compare, difference, difference_at_its_cost, single_exits
from fitters import AUTO, OURS, PUBLISHED
from recording import exit_accuracies, record_exits
from risk_bound import DELTA, RiskOutcome, resample

from edgeexit.fitting import ReadoutDataset

_BUDGETS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_BETWEEN = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
"""Further budgets for `auto`, because the costs of the published methods can lie between the budgets."""
_RISKS = (0.01, 0.02, 0.05)
_SAMPLES = (1000, 2000)
_CERTIFIED = ("confidence", "beem")
_RESAMPLINGS = 200


def measure_budgets(test: ReadoutDataset, splits: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Return the accuracy and cost of every fitter at every budget."""
    outcomes = compare(
        test, PUBLISHED | OURS, _BUDGETS, splits=splits, pool=pool, on_done=_progress("budgets and splits")
    )
    between = compare(
        test, {AUTO: OURS[AUTO]}, _BETWEEN, splits=splits, pool=pool, on_done=_progress("further budgets and splits")
    )
    ours = [*outcomes[AUTO].values(), *between[AUTO].values()]
    curve = [single_exits(test)[0], *(outcome for outcome in ours if outcome is not None)]
    figures: dict[str, Any] = {}
    for name, row in outcomes.items():
        figures[name] = {}
        for budget, outcome in row.items():
            if outcome is None:
                continue
            cell: dict[str, Any] = {"accuracy": float(outcome.correct.mean()), "cost": float(outcome.cost.mean())}
            chosen = outcomes[AUTO][budget]
            if name == AUTO:
                cell["kinds"] = outcome.kinds
            elif chosen is not None:
                cell["auto_above"] = difference(chosen, outcome)._asdict()
                cell["auto_above_at_its_cost"] = difference_at_its_cost(curve, outcome)._asdict()
            figures[name][f"{budget:g}"] = cell
    return figures


def measure_risks(test: ReadoutDataset, pool: ProcessPoolExecutor) -> list[RiskOutcome]:
    """Return how often each certified risk held, per kind of policy and number of samples."""
    held = []
    wanted = [(kind, samples, risk) for kind in _CERTIFIED for samples in _SAMPLES for risk in _RISKS]
    report = _progress("certified risks")
    for done, (kind, samples, risk) in enumerate(wanted, start=1):
        held.append(resample(test, kind, samples, risk, resamplings=_RESAMPLINGS, pool=pool))
        report(done, len(wanted))
    return held


def _print_tables(figures: Mapping[str, Any]) -> None:
    exits = figures["exits"]
    print("Accuracy of each exit alone, at its fraction of the full cost:\n")
    _print_row("", [f"exit {k}" for k in range(len(exits["cost"]))], header=True)
    _print_row("cost", [f"{cost:.1%}" for cost in exits["cost"]])
    _print_row("test part", [f"{fraction:.2%}" for fraction in exits["test"]])
    _print_row("held out of the train part", [f"{fraction:.2%}" for fraction in exits["held_out"]])

    budgets = [f"{budget:g}" for budget in _BUDGETS]
    print("\nAccuracy (and mean cost) on the halves that were not used for fitting, by budget:\n")
    _print_row("", [f"{float(budget):.0%}" for budget in budgets], header=True)
    for name, row in figures["budgets"].items():
        cells = (row.get(budget) for budget in budgets)
        shown = [f"{cell['accuracy']:.2%} ({cell['cost']:.1%})" if cell else "none" for cell in cells]
        _print_row(name if name in PUBLISHED else f"`{name}`", shown)

    print("\nAccuracy of `auto` minus that of each fitter, in points, at the fitter's mean cost (± standard error):\n")
    _print_row("", [f"{float(budget):.0%}" for budget in budgets], header=True)
    for name, row in figures["budgets"].items():
        if name != AUTO:
            cells = (row.get(budget) for budget in budgets)
            shown = [_points(cell["auto_above_at_its_cost"]) if cell else "none" for cell in cells]
            _print_row(name if name in PUBLISHED else f"`{name}`", shown)

    print("\nKinds that `auto` chose, in number of splits:\n")
    _print_row("", [f"{float(budget):.0%}" for budget in budgets], header=True)
    taken = [figures["budgets"][AUTO][budget]["kinds"] for budget in budgets]
    for kind in dict.fromkeys(kind for kinds in taken for kind in kinds):
        _print_row(f"`{kind}`", [str(kinds.get(kind, 0)) for kinds in taken])

    print(f"\n`--max-risk EPS --delta {DELTA:g}`, {_RESAMPLINGS} fits on newly drawn samples each:\n")
    _print_row("policy", ["samples", "EPS", "bound held", "mean disagreement", "mean cost"], header=True)
    for held in figures["risks"]:
        _print_row(
            f"`{held['kind']}`",
            [
                f"{held['samples']:,}",
                f"{held['risk']:.0%}",
                f"{held['fraction']:.1%}",
                f"{held['disagreement']:.2%}",
                f"{held['mean_cost']:.1%}",
            ],
        )


def _points(above: Mapping[str, float]) -> str:
    return f"{above['mean'] * 100:+.2f} ± {above['standard_error'] * 100:.2f}"


def _print_row(name: str, cells: Sequence[str], *, header: bool = False) -> None:
    print(f"| {' | '.join([name, *cells])} |")
    if header:
        print(f"|{'---|' * (len(cells) + 1)}")


def _progress(what: str) -> Callable[[int, int], None]:
    return lambda done, total: print(f"{done} of {total} {what}", file=sys.stderr)


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cifar", type=Path, required=True, help="CIFAR-10 as JPEG files, .npz")
    arguments.add_argument("--weights", type=Path, required=True, help="public ResNet-56 weights, .th")
    arguments.add_argument("--cache", type=Path, help="write the readouts to this .npz, or read them from it")
    arguments.add_argument("--splits", type=int, default=4, help="number of fits and scores, an even number")
    arguments.add_argument("--workers", type=int, default=2, help="number of processes")
    arguments.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = arguments.parse_args()
    if options.splits < 2 or options.splits % 2:  # noqa: PLR2004 - each halving is scored both ways
        arguments.error(f"--splits {options.splits} must be an even number of at least 2")
    recorded = record_exits(options.cifar, options.weights, options.cache)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        figures = {
            "training_seconds": recorded.training_seconds,
            "exits": {
                "cost": recorded.test.costs,
                "test": exit_accuracies(recorded.test),
                "held_out": exit_accuracies(recorded.held_out),
            },
            "budgets": measure_budgets(recorded.test, options.splits, pool),
            "risks": [held._asdict() for held in measure_risks(recorded.test, pool)],
        }
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        _print_tables(figures)


if __name__ == "__main__":
    main()
