"""`edgeexit evaluate`: what the policy makes of a data set on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.console import milliseconds, next_step, print_json, print_table, progress_bar, share, warn


def evaluate_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle; it needs a policy (edgeexit fit).")],
    data: Annotated[Path, typer.Option(help="Test samples (.npz), with labels for the accuracy.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure accuracy, agreement with the final exit, exit rates and latency, beside the whole model always.

    Example: `edgeexit evaluate quickstart/bundle --data quickstart/test.npz`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.datasets import load_dataset
    from edgeexit.errors import BundleError
    from edgeexit.runtime import Runner, evaluate, full_depth, stand_in

    opened = Bundle.open(bundle)
    document = opened.policy()
    if document is None:
        raise BundleError(f"bundle '{bundle}' has no policy yet, first: {how_to_get_a_policy(bundle, opened.manifest)}")
    if (remark := stand_in(opened)) is not None:
        warn(remark)
    manifest = opened.manifest
    dataset = load_dataset(data, manifest.inputs, task=manifest.task, classes=manifest.classes)
    kind = document.policy.kind
    policies = {"whole model": full_depth(document.policy), kind: document.policy}
    with Runner(opened) as runner, progress_bar("evaluating", total=len(dataset)) as bar:
        results = evaluate(runner, dataset, policies, on_samples=lambda n: bar.advance(bar.task_ids[0], n))
    if as_json:
        print_json(results)
        return
    print_table(
        f"{len(dataset)} samples, one at a time",
        ("policy", "accuracy", "agreement", *opened.manifest.exits, "mean", "p50", "p90"),
        [
            (
                name,
                "-" if result.accuracy is None else share(result.accuracy),
                share(result.agreement),
                *(share(rate) for rate in result.exit_rates),
                milliseconds(result.latency.mean_ms),
                milliseconds(result.latency.p50_ms),
                milliseconds(result.latency.p90_ms),
            )
            for name, result in results.items()
        ],
    )
    next_step(f"edgeexit profile {bundle}")
