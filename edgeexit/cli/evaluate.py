"""`edgeexit evaluate`: accuracy, exits and latency of a bundle's policy on a data set, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.cli.data_files import IgnoreLabel, not_finite_warning, read_labelled
from edgeexit.console import next_step, print_json, print_table, show_progress, warn

if TYPE_CHECKING:
    from edgeexit.runtime import Evaluation, Interval


def evaluate_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle; it needs a policy (edgeexit fit).")],
    data: Annotated[Path, typer.Option(help="Test samples (.npz); the accuracy needs labels.")],
    ignore_label: IgnoreLabel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure accuracy, agreement with the final exit, exit rates, latency and speed-up, and those of the full model.

    Every value has a 95 % bootstrap confidence interval. The speed-up is shown in measured time, and in number of
    layers as papers count it.

    Example: `edgeexit evaluate quickstart/bundle --data quickstart/test.npz`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.errors import BundleError
    from edgeexit.policies.unreachable import unreachable_exits_warning
    from edgeexit.runtime import Runner, evaluate

    opened = Bundle.open(bundle)
    document = opened.policy()
    if document is None:
        raise BundleError(f"bundle '{bundle}' has no policy; run `{how_to_get_a_policy(bundle)}` first")
    policy, manifest = document.policy, opened.manifest
    dataset = read_labelled(data, manifest, ignore_label)
    if (warning := unreachable_exits_warning(policy, manifest.exits)) is not None:
        warn(warning)
    with Runner(opened) as runner, show_progress("evaluating", total=len(dataset)) as progress:
        for warning in runner.warnings:
            warn(warning)
        results = evaluate(runner, dataset, {policy.kind: policy}, progress=progress)
    for name, result in results.items():
        if result.not_finite:
            warn(f"{name}: {not_finite_warning(result.not_finite, len(dataset))}")
    if as_json:
        print_json(results)
        return
    columns = [_cells(result, manifest.exits) for result in results.values()]
    print_table(
        f"{len(dataset)} samples, one at a time; 95 % intervals",
        ("", *results),
        [(name, *(column[name] for column in columns)) for name in columns[0]],
    )
    next_step(f"edgeexit inspect {bundle}" if opened.profile() else f"edgeexit profile {bundle}")


def _cells(result: "Evaluation", exits: tuple[str, ...]) -> dict[str, str]:
    """Return row name -> text of the cell."""
    latency = result.latency
    return {
        "accuracy": _percent(result.accuracy),
        "agreement with the final exit": _percent(result.agreement),
        **{f"exit at {name}": _percent(rate) for name, rate in zip(exits, result.exit_rates, strict=True)},
        "mean latency": _cell(latency.mean_ms, "{:.3f}", " ms"),
        "p50": _cell(latency.p50_ms, "{:.3f}", " ms"),
        "p90": _cell(latency.p90_ms, "{:.3f}", " ms"),
        "speed-up, measured": _cell(result.speedup, "{:.2f}", "x"),
        "speed-up, in layers": _cell(result.layer_speedup, "{:.2f}", "x"),
    }


def _percent(fraction: "Interval | None") -> str:
    return _cell(fraction, "{:.1f}", " %", scale=100)


def _cell(interval: "Interval | None", form: str, unit: str, *, scale: float = 1) -> str:
    """Return a value, with its interval unless the width is 0; a dash if the value is unknown."""
    if interval is None:
        return "-"
    value, low, high = (form.format(scale * number) for number in (interval.value, interval.low, interval.high))
    return f"{value}{unit}" if interval.low == interval.high else f"{value}{unit} ({low} to {high})"
