"""`edgeexit run`: run a bundle on the samples of a file."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.cli.data_files import not_finite_warning, read_samples
from edgeexit.console import console, next_step, print_json, printable, show_progress, warn
from edgeexit.formatting import percent


def run_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Samples (.npz).")],
    out: Annotated[Path, typer.Option(help="File to write the results to (.npz).")],
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    every_exit: Annotated[
        bool,
        typer.Option(
            "--every-exit", help="Run all stages without a policy, and write one array per exit: its raw outputs."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Run a bundle on samples, and write the arrays `predictions`, `exits`, `latency_ms` and `outputs` to a file.

    Each companion of a bundle is an array `companion.NAME`: for every sample, the companion of the exit that it took.

    Example: `edgeexit run quickstart/bundle --data quickstart/test.npz --out predictions.npz`
    """
    import numpy as np

    from edgeexit.bundle import Bundle
    from edgeexit.bundle.manifest import COMPANION_PREFIX
    from edgeexit.errors import BundleError, DataError
    from edgeexit.npz import save_arrays
    from edgeexit.policies import exit_rates
    from edgeexit.runtime import Runner, record_outputs
    from edgeexit.runtime.recording import not_finite

    if out.suffix.lower() != ".npz":
        raise DataError(f"--out '{out}' must have the suffix .npz, e.g. predictions.npz")
    if out.resolve() == data.resolve():
        raise DataError(f"--out '{out}' is the file of --data; give another name")
    opened = Bundle.open(bundle)
    document = opened.policy()
    if document is None and not every_exit:
        raise BundleError(
            f"bundle '{bundle}' has no policy yet; run `{how_to_get_a_policy(bundle)}`, or use --every-exit"
        )
    dataset = read_samples(data, opened.manifest)
    if not out.parent.is_dir():
        raise DataError(f"folder '{out.parent}' of --out does not exist; create it")
    with Runner(opened) as runner, show_progress("running", total=len(dataset)) as progress:
        if document is None or every_exit:
            outputs = record_outputs(runner, dataset, batch=batch, progress=progress)
            save_arrays(out, outputs)
            wrong = int(np.any([not_finite(raw) for raw in outputs.values()], axis=0).sum())
            summary: dict[str, object] = {"samples": len(dataset), "exits": list(outputs)}
        else:
            results = []
            for inputs in dataset.batches(batch):
                results.append(runner.infer(inputs, policy=document.policy))
                progress.advance(len(results[-1].predictions))
            arrays = {
                "predictions": np.concatenate([result.predictions for result in results]),
                "exits": np.concatenate([result.exits for result in results]),
                "latency_ms": np.concatenate([result.latency_ms for result in results]),
                "outputs": np.concatenate([result.outputs for result in results]),
            }
            arrays |= {
                f"{COMPANION_PREFIX}{name}": np.concatenate([result.companions[name] for result in results])
                for name in opened.manifest.companions
            }
            save_arrays(out, arrays)
            wrong = int(not_finite(arrays["outputs"]).sum())
            summary = {
                "samples": len(dataset),
                "exit_rates": exit_rates(arrays["exits"], document.policy.exits),
                "mean_ms": float(arrays["latency_ms"].mean()),
            }
    if wrong:
        warn(not_finite_warning(wrong, len(dataset)))
    if as_json:
        print_json(summary)
        return
    console.print(f"{len(dataset)} samples -> {printable(out)}")
    if "mean_ms" in summary:
        rates = exit_rates(arrays["exits"], len(opened.manifest.exits))
        mix = ", ".join(f"{name} {percent(rate)}" for name, rate in zip(opened.manifest.exits, rates, strict=True))
        console.print(f"exits: {mix}; mean latency {summary['mean_ms']:.3f} ms")
    next_step(f"python -c \"import numpy; print(numpy.load('{out}').files)\"")
