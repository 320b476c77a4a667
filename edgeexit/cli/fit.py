"""`edgeexit fit`: fits a policy to held-out data for a goal, and stores it in the bundle."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.data_files import IgnoreLabel, read_labelled
from edgeexit.cli.fit_goals import AUTO, require_policy_name, stated_goal, stated_weights
from edgeexit.cli.fit_summary import print_comparison, print_fit
from edgeexit.cli.pages import require_page
from edgeexit.cli.private_keys import key_for_signed
from edgeexit.cli.rejected_profile import rejected_profile
from edgeexit.console import next_step, notes, print_json, show_progress, warn

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle, Costs
    from edgeexit.datasets import Dataset
    from edgeexit.fitting import Choice, Fit, FitOptions, Goal, KindRule, ReadoutDataset

_MIN_SAMPLES = 50
"""With fewer samples, the command warns that the fit is unreliable."""

_FROM_REGISTRY = "See `edgeexit.cli.fit_help`, which writes this help from the registry of policies."


def fit_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Held-out samples (.npz), not the ones that the model was trained on.")],
    policy: Annotated[str, typer.Option(help=_FROM_REGISTRY)] = AUTO,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Goal: the highest accuracy within this mean latency of the stages, in ms; needs a profile."),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(help="Goal: the highest accuracy within the full model's cost divided by this number, e.g. 2."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Goal: the lowest mean cost with an accuracy at most this fraction below the final exit's, e.g. 0.01."
        ),
    ] = None,
    max_risk: Annotated[
        float | None,
        typer.Option(
            help="Goal (the default, with 0.05): the lowest mean cost at which at most this fraction of the "
            "predictions differ from the final exit's, with a certificate."
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Maximum probability that the bound of --max-risk does not hold; default 0.1.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help=_FROM_REGISTRY)] = None,
    weights: Annotated[str | None, typer.Option(help=_FROM_REGISTRY)] = None,
    temperatures: Annotated[
        bool, typer.Option(help="Fit a softmax temperature per exit where that improves the policy.")
    ] = True,
    ignore_label: IgnoreLabel = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report of the fit (.html, works offline).")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the random splits of the samples, and of the training of scores.")
    ] = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take the costs from the profile even if it is invalid (the machine was busy)."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(help="Private key that signs the bundle with its new policy; needed if the bundle is signed."),
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Remove the signature of a signed bundle instead of renewing it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Fit a policy on the readouts of the compiled stages, and store it in the bundle.

    Give one goal: `--budget-ms`, `--speedup`, `--max-drop`, `--max-risk`, or `--rule` for policies that have rules.
    Costs are the latencies of the profile, or multiply-accumulates if there is no valid profile. Without labels,
    agreement with the final exit replaces accuracy.

    Example: `edgeexit fit quickstart/bundle --data quickstart/heldout.npz --policy auto --speedup 2 --report fit.html`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.fitting import FitOptions
    from edgeexit.policies import PolicyDocument

    require_policy_name(policy)
    opened = Bundle.open(bundle)
    signing_key = key_for_signed(bundle, "policy", key, is_signed=opened.is_signed, unsigned=unsigned)
    costs = opened.costs(force=force)
    goal = stated_goal(
        bundle, costs, policy,
        budget_ms=budget_ms, speedup=speedup, max_drop=max_drop, max_risk=max_risk, delta=delta, rule=rule,
    )  # fmt: skip
    options = FitOptions(temperatures=temperatures, weights=stated_weights(weights, policy), seed=seed)
    if report is not None:
        require_page("--report", report, bundle)
    if costs.rejected:
        warn(f"{rejected_profile(bundle, costs)}. Costs are multiply-accumulates")
    if signing_key is not None and costs.unit == "ms" and not opened.is_profile_signed_by([signing_key.public_key()]):
        warn(f"the costs are from profile.json, which this key has not signed; to sign it: edgeexit sign {bundle}")
    manifest = opened.manifest
    dataset = read_labelled(data, manifest, ignore_label)
    readouts = _record(opened, dataset, costs)
    fitted, choice = _fit(policy, readouts, goal, options)
    if len(readouts) < _MIN_SAMPLES:
        warn(f"{len(readouts)} samples are few; with fewer than {_MIN_SAMPLES}, a policy may be worse on new samples")
    document = PolicyDocument(bundle=opened.digest, revision=0, policy=fitted.policy, certificate=fitted.certificate)
    if report is not None:
        _write_report(report, opened, readouts, costs, fitted, choice, options)
    opened.write_policy(document, key=signing_key)
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
                "ignored_labels": dataset.ignored,
            }
        )
        return
    if choice is not None:
        print_comparison(choice, readouts, costs)
    print_fit(fitted, manifest.exits, readouts, costs)
    next_step(f"edgeexit evaluate {bundle} --data TEST.npz" if report is None else f"open {report} in a browser")


def _record(bundle: "Bundle", dataset: "Dataset", costs: "Costs") -> "ReadoutDataset":
    """Run the compiled stages to full depth: policies are fitted on the readouts that devices compute."""
    from edgeexit.recorded_readouts import record_readouts

    with show_progress("recording readouts", total=len(dataset)) as progress:
        return record_readouts(bundle, dataset, costs.cumulative, progress=progress)


def _fit(
    policy: str, readouts: "ReadoutDataset", goal: "Goal | KindRule", options: "FitOptions"
) -> "tuple[Fit, Choice | None]":
    from edgeexit.fitting import KindRule, choose_policy, fit_by_rule, fit_policy

    if isinstance(goal, KindRule):
        return fit_by_rule(readouts, goal, options), None
    if policy != AUTO:
        with notes.status(f"fitting {policy}") if notes.is_terminal else nullcontext():
            return fit_policy(policy, readouts, goal, options), None
    with show_progress("comparing") as progress:
        choice = choose_policy(readouts, goal, options=options, progress=progress)
    return choice.fit, choice


def _write_report(
    path: Path,
    bundle: "Bundle",
    readouts: "ReadoutDataset",
    costs: "Costs",
    fitted: "Fit",
    choice: "Choice | None",
    options: "FitOptions",
) -> None:
    from edgeexit.report import FitReport, write_fit_report

    report = FitReport(
        title=f"{bundle.manifest.model}: {fitted.policy.kind}",
        exits=bundle.manifest.exits,
        class_names=bundle.manifest.class_names,
        dataset=readouts,
        unit=costs.unit,
        fit=fitted,
        choice=choice,
        options=options,
    )
    with show_progress("writing the report") as progress:
        write_fit_report(path, report, progress=progress)
