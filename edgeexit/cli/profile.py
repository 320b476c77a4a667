"""`edgeexit profile`: what a bundle costs on this machine."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from edgeexit.console import console, milliseconds, next_step, notes, print_json, print_table, share, warn


def profile_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[
        Path | None, typer.Option(help="Samples with a real mix of exits (.npz); default: the golden ones.")
    ] = None,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of steady state, for each of the two parts.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure cold load, first run and steady state, stage by stage and end to end; store profile.json in the bundle.

    Example: `edgeexit profile quickstart/bundle --data quickstart/test.npz --duration 5`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.datasets import load_dataset
    from edgeexit.runtime import make_backend, profile_bundle

    opened = Bundle.open(bundle)
    for remark in make_backend(opened).remarks:
        warn(remark)
    document = opened.policy()
    manifest = opened.manifest
    dataset = None if data is None else load_dataset(data, manifest.inputs, task=manifest.task)
    with notes.status(f"profiling for {2 * duration:g} s") if notes.is_terminal else nullcontext():
        profile = profile_bundle(
            opened, policy=None if document is None else document.policy, dataset=dataset, seconds=duration
        )
    opened.write_profile(profile)
    if as_json:
        print_json(profile)
        return
    rows = [(stage.name, stage.latency) for stage in profile.stages]
    if profile.end_to_end is not None:
        rows.append((f"end to end, {profile.policy}", profile.end_to_end))
    print_table(
        f"{profile.machine}, {profile.runtime}, {profile.threads or 'all'} thread(s), batch 1",
        ("", "mean", "p50", "p90", "p99", "samples"),
        [
            (
                name,
                milliseconds(latency.mean_ms),
                milliseconds(latency.p50_ms),
                milliseconds(latency.p90_ms),
                milliseconds(latency.p99_ms),
                f"{latency.samples:,}",
            )
            for name, latency in rows
        ],
    )
    console.print(f"cold load {milliseconds(profile.cold_load_ms)}, first run {milliseconds(profile.first_run_ms)}")
    if profile.exit_rates is not None:
        mix = ", ".join(
            f"{name} {share(rate)}" for name, rate in zip(opened.manifest.exits, profile.exit_rates, strict=True)
        )
        console.print(f"exit mix of the end-to-end run: {mix}")
    next_step(f"edgeexit inspect {bundle}")
