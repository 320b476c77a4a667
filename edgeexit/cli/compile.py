"""`edgeexit compile`: turn a trained multi-exit model into a bundle."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from edgeexit.console import next_step, notes, print_json, print_table, progress_bar, warn


def compile_command(
    model: Annotated[
        str, typer.Argument(help="package.module:factory, path/file.py:factory, a .pt2 or an .onnx file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    target: Annotated[str | None, typer.Option(help="Device kind; default: this machine's generic one.")] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", help="NAME:SHAPE[:DTYPE], once an input; the first dimension is the batch."),
    ] = None,
    example: Annotated[Path | None, typer.Option(help="Real samples (.npz), to prove the split on.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the source's.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    key: Annotated[Path | None, typer.Option(help="Private key: sign the bundle.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Compile a model into a bundle: one graph a stage, proven to answer as the whole model does.

    The model's forward returns its exits in order, shallow to deep, as a tuple, list or dict of logits; an ONNX file
    has one output an exit.

    Example: `edgeexit compile mynet.py:make --input image:batch,1,32,32 --example images.npz --out bundle`
    """
    os.environ.pop("TORCH_LOGS", None)  # torch logs past the end of the command otherwise
    remarks: list[str] = []
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr), progress_bar("loading torch") as bar:
        # What the user's code prints must not stand between the figures, nor torch's warnings beside the one error.
        warnings.simplefilter("ignore")
        from edgeexit.compiler import STEPS, compile_bundle, load_labels
        from edgeexit.datasets import load_arrays
        from edgeexit.signing import load_private_key

        signing_key = None if key is None else load_private_key(key)
        class_names = None if labels is None else load_labels(labels)
        samples = None if example is None else load_arrays(example)
        task = bar.task_ids[0]
        bar.update(task, total=len(STEPS))
        bundle = compile_bundle(
            model,
            out,
            target=target,
            inputs=input_ or (),
            example=samples,
            name=name,
            labels=class_names,
            replace=force,
            on_step=lambda step: bar.update(task, description=step, completed=STEPS.index(step)),
            on_note=remarks.append,
        )
        if signing_key is not None:
            bundle.sign(signing_key)

    for remark in remarks:
        warn(remark)
    manifest = bundle.manifest
    if as_json:
        print_json({"bundle": str(out), "digest": bundle.digest, "manifest": manifest})
        return
    print_table(
        f"{manifest.model} for {manifest.target}",
        ("stage", "exit", "carries, bytes a sample", "MACs", "max error"),
        [
            (
                stage.name,
                stage.exit.name,
                _bytes(tensor.bytes_per_sample for tensor in stage.carry_out),
                f"{stage.macs:,}",
                f"{manifest.proof.max_absolute_error[stage.exit.name]:.2g}",
            )
            for stage in manifest.stages
        ],
    )
    kind = "real" if manifest.proof.source == "data" else "random"
    notes.print(f"proven on {manifest.proof.samples} {kind} samples; digest {bundle.digest[:12]}")
    next_step(f"edgeexit fit {out} --data HELDOUT.npz")


def _bytes(sizes: Iterable[int | None]) -> str:
    known = list(sizes)
    return "varies" if None in known else f"{sum(size or 0 for size in known):,}"
