"""`edgeexit fit`: choose a policy's thresholds on held-out data, with a certificate."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.console import milliseconds, next_step, notes, print_json, print_table, progress_bar, share, warn


def fit_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Held-out samples (.npz); not those the model was trained on.")],
    policy: Annotated[str, typer.Option(help="Kind of policy: confidence or beem.")] = "beem",
    max_risk: Annotated[
        float, typer.Option(help="Largest share of answers that may differ from the final exit's.")
    ] = 0.05,
    delta: Annotated[float, typer.Option(help="Probability with which that bound may fail.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split into a choosing and a certifying half.")] = 0,
    key: Annotated[Path | None, typer.Option(help="Private key: sign the bundle with its new policy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Fit a policy on the compiled stages' readouts and store it in the bundle.

    The policy is the cheapest found whose answers differ from the final exit's on at most `--max-risk` of inputs
    like the data, with probability 1 - `--delta`. Costs are those of the profile, or operator counts without one.

    Example: `edgeexit fit quickstart/bundle --data quickstart/heldout.npz --policy beem --max-risk 0.05`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.datasets import load_dataset
    from edgeexit.errors import BundleError
    from edgeexit.fitting import Evidence, MaxRisk, fit_policy
    from edgeexit.policies import PolicyDocument
    from edgeexit.runtime import Runner, record
    from edgeexit.signing import load_private_key

    opened = Bundle.open(bundle)
    if opened.manifest.task == "segment":
        raise BundleError(
            f"bundle '{bundle}' segments: certificates count answers, and a map is many; policies are fitted for "
            "classify only, set this one's with Bundle.write_policy in Python"
        )
    signing_key = None if key is None else load_private_key(key)
    dataset = load_dataset(data, opened.manifest.inputs, classes=opened.manifest.classes)
    with Runner(opened) as runner, progress_bar("recording every exit", total=len(dataset)) as bar:
        recording = record(runner, dataset, probabilities=True, on_samples=lambda n: bar.advance(bar.task_ids[0], n))
    unit, costs = opened.costs()
    evidence = Evidence(
        readouts=recording.readouts, costs=costs, temperatures=(1.0,) * len(costs), labels=dataset.labels
    )
    fitted = fit_policy(policy, evidence, MaxRisk(risk=max_risk, delta=delta), seed=seed)
    document = PolicyDocument(bundle=opened.digest, revision=0, policy=fitted.policy, certificate=fitted.certificate)
    opened.write_policy(document)
    if signing_key is not None:
        opened.sign(signing_key)
    elif opened.is_signed:
        warn(f"the bundle's signature does not cover its new policy; run `edgeexit sign {bundle} --key KEY`")

    speedup = costs[-1] / fitted.expected.mean_cost
    if as_json:
        print_json(
            {
                "policy": document,
                "cost_unit": unit,
                "mean_cost": fitted.expected.mean_cost,
                "full_cost": costs[-1],
                "speedup": speedup,
            }
        )
        return
    certificate = fitted.certificate
    assert certificate is not None  # noqa: S101 - this goal always has one
    thresholds = (*fitted.policy.thresholds, None)
    print_table(
        f"{fitted.policy.kind}, fitted on {len(dataset)} samples",
        ("exit", "threshold", "exit rate"),
        [
            (name, _threshold(threshold, last=name == opened.manifest.exits[-1]), share(rate))
            for name, threshold, rate in zip(opened.manifest.exits, thresholds, certificate.exit_rates, strict=True)
        ],
    )
    cost = f"{fitted.expected.mean_cost:,.0f} MACs" if unit == "macs" else milliseconds(fitted.expected.mean_cost)
    notes.print(
        f"certified on {certificate.samples} samples: disagreement at most {share(certificate.risk)} with probability "
        f"{1 - certificate.delta:.0%} (observed {share(certificate.observed)}); mean cost {cost}, {speedup:.2f}x less"
    )
    if all(threshold is None for threshold in fitted.policy.thresholds):
        warn("nothing leaves early under this bound; give more data or a larger --max-risk")
    next_step(f"edgeexit evaluate {bundle} --data TEST.npz")


def _threshold(value: float | None, *, last: bool) -> str:
    if last:
        return "always"
    return "never" if value is None else f"{value:.4f}"
