"""`edgeexit fit`: choose a policy and its thresholds on held-out data, for a stated goal."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeexit.cli.fit_goals import AUTO, own_weights, require_policy_name, stated_goal
from edgeexit.cli.fit_summary import print_comparison, print_fit
from edgeexit.cli.pages import require_page
from edgeexit.console import next_step, notes, print_json, progress_bar, show_progress, warn

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle, Costs
    from edgeexit.datasets import Dataset
    from edgeexit.fitting import BeemRule, Choice, Fit, Goal, ReadoutDataset

_FEW = 50
"""Samples below which a fit is told to say little."""


def fit_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Held-out samples (.npz); not those the model was trained on.")],
    policy: Annotated[
        str,
        typer.Option(
            help="confidence, entropy, margin, patience, voting, beem, pcee, cats, ztw, eenet; or auto: compare them "
            "all and take the best."
        ),
    ] = AUTO,
    budget_ms: Annotated[
        float | None, typer.Option(help="Goal: the best accuracy within this mean cost of the stages; needs a profile.")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Goal: the same, the budget being the whole model's cost divided by this.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Goal: the least cost whose accuracy is at most this below the final exit's, e.g. 0.01."),
    ] = None,
    max_risk: Annotated[
        float | None,
        typer.Option(
            help="Goal, the default with 0.05: the least cost at which at most this share of answers differ from the "
            "final exit's, certified."
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Probability with which the bound of --max-risk may fail; default 0.1.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="Goal, beem only: its paper's error-rate rule (error-rate), or paired; no temperatures."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="beem: accuracy (default), cost, or one number an exit: 0.6,0.7,0.9,1.")
    ] = None,
    temperatures: Annotated[
        bool, typer.Option(help="Fit a softmax temperature an exit first, where that helps.")
    ] = True,
    report: Annotated[Path | None, typer.Option(help="Write a page (.html, works offline) that shows it all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split into halves or folds, and of what is learned.")] = 0,
    key: Annotated[Path | None, typer.Option(help="Private key: sign the bundle with its new policy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Fit a policy on the compiled stages' readouts and store it in the bundle.

    One goal: `--budget-ms`, `--speedup`, `--max-drop`, `--max-risk` or, for beem, `--rule`. Costs are those of the
    profile, or operator counts without one. Without labels, agreement with the final exit stands in for accuracy.

    Example: `edgeexit fit quickstart/bundle --data quickstart/heldout.npz --policy auto --speedup 2 --report fit.html`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.datasets import check_finite, load_dataset
    from edgeexit.policies import PolicyDocument
    from edgeexit.signing import load_private_key

    require_policy_name(policy)
    opened = Bundle.open(bundle)
    costs = opened.costs()
    goal = stated_goal(
        bundle, costs, policy,
        budget_ms=budget_ms, speedup=speedup, max_drop=max_drop, max_risk=max_risk, delta=delta, rule=rule,
    )  # fmt: skip
    chosen_weights = own_weights(weights, policy)
    signing_key = None if key is None else load_private_key(key)
    if report is not None:
        require_page("--report", report, bundle)
    manifest = opened.manifest
    dataset = load_dataset(data, manifest.inputs, task=manifest.task, classes=manifest.classes)
    check_finite(dataset.inputs, where=f"data file '{data}'")
    readout_dataset = _record(opened, dataset, costs)
    if len(readout_dataset) < _FEW:
        warn(f"{len(readout_dataset)} samples say little: what is fitted on fewer than {_FEW} may not hold on others")
    fitted, choice = _fit(policy, readout_dataset, goal, temperatures=temperatures, weights=chosen_weights, seed=seed)
    document = PolicyDocument(bundle=opened.digest, revision=0, policy=fitted.policy, certificate=fitted.certificate)
    if report is not None:
        asked = {"temperatures": temperatures, "weights": chosen_weights, "seed": seed}
        _draw(report, opened, readout_dataset, costs, fitted, choice, asked)
    opened.write_policy(document)
    if signing_key is not None:
        opened.sign(signing_key)
    elif opened.is_signed:
        warn(f"the bundle's signature does not cover its new policy; run `edgeexit sign {bundle} --key KEY`")
    if as_json:
        print_json(
            {
                "policy": document,
                "goal": goal,
                "expected": fitted.expected,
                "cost_unit": costs.unit,
                "full_cost": costs.cumulative[-1],
                "speedup": costs.cumulative[-1] / fitted.expected.mean_cost,
                "comparison": choice and choice.comparisons,
            }
        )
        return
    if choice is not None:
        print_comparison(choice, readout_dataset, costs)
    print_fit(fitted, manifest.exits, readout_dataset, costs)
    next_step(f"edgeexit evaluate {bundle} --data TEST.npz" if report is None else f"open {report} in a browser")


def _record(bundle: "Bundle", dataset: "Dataset", costs: "Costs") -> "ReadoutDataset":
    """Run every exit on the compiled stages: policies are fitted on what ships."""
    from edgeexit.fitting import MapLosses, ReadoutDataset
    from edgeexit.runtime import Runner, record

    with Runner(bundle) as runner, show_progress("recording every exit", total=len(dataset)) as progress:
        recording = record(runner, dataset, probabilities=True, progress=progress)
    maps = None
    if recording.disagreement is not None:
        maps = MapLosses(disagreement=recording.disagreement, errors=recording.errors)
    return ReadoutDataset(
        readouts=recording.readouts,
        costs=tuple(float(cost) for cost in costs.cumulative),
        temperatures=(1.0,) * len(costs.cumulative),
        labels=dataset.labels if maps is None else None,
        maps=maps,
    )


def _fit(
    kind: str,
    readout_dataset: "ReadoutDataset",
    goal: "Goal | BeemRule",
    *,
    temperatures: bool,
    weights: str | tuple[float, ...],
    seed: int,
) -> "tuple[Fit, Choice | None]":
    from edgeexit.fitting import BeemRule, Fit, choose_policy, expect, fit_policy
    from edgeexit.fitting.choose import FOLDS
    from edgeexit.fitting.published import beem_rule
    from edgeexit.fitting.readout_dataset import require_sound
    from edgeexit.policies import KINDS

    if isinstance(goal, BeemRule):
        require_sound(readout_dataset)
        policy = beem_rule(readout_dataset, weights, rule=goal.rule)
        return Fit(policy=policy, goal=goal, expected=expect(policy, readout_dataset)), None
    if kind != AUTO:
        with notes.status(f"fitting {kind}") if notes.is_terminal else nullcontext():
            return fit_policy(kind, readout_dataset, goal, temperatures=temperatures, weights=weights, seed=seed), None
    with progress_bar("comparing", total=len(KINDS) * FOLDS + 1) as bar:

        def fitting(kind: str) -> None:
            bar.update(bar.task_ids[0], description=f"comparing: {kind}", advance=1)

        choice = choose_policy(
            readout_dataset, goal, temperatures=temperatures, weights=weights, seed=seed, on_fit=fitting
        )
    return choice.fit, choice


def _draw(
    path: Path,
    bundle: "Bundle",
    readout_dataset: "ReadoutDataset",
    costs: "Costs",
    fitted: "Fit",
    choice: "Choice | None",
    asked: dict[str, Any],
) -> None:
    """Draw the page; `asked` are the options of the fit that its curves are fitted with, too."""
    from edgeexit.policies import KINDS
    from edgeexit.report import draw_report

    with progress_bar("drawing the report", total=len(KINDS)) as bar:
        draw_report(
            path,
            title=f"{bundle.manifest.model}: {fitted.policy.kind}",
            exits=bundle.manifest.exits,
            dataset=readout_dataset,
            unit=costs.unit,
            fit=fitted,
            choice=choice,
            class_names=bundle.manifest.class_names,
            on_step=lambda n: bar.advance(bar.task_ids[0], n),
            **asked,
        )
