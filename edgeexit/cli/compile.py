"""`edgeexit compile`: turn a trained multi-exit model into a bundle."""

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.console import next_step, notes, print_json, print_table, progress_bar, warn
from edgeexit.formatting import percent

if TYPE_CHECKING:
    from edgeexit.bundle.manifest import ExitFidelity, Manifest


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
    exits: Annotated[
        str | None, typer.Option(help="NAME,NAME,...: outputs that are exits, shallow to deep; default: all.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classify or segment; default: as the exits' dimensions tell.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Samples (.npz) that set int8's ranges and measure what is lost.")
    ] = None,
    keep_fp32: Annotated[
        list[str] | None, typer.Option(help="Pattern of nodes that stay in fp32, by name or operator; repeatable.")
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Warn when an exit loses more than this share of accuracy, or without labels of its answers.",
        ),
    ] = 0.01,
    dimension: Annotated[
        list[str] | None,
        typer.Option(help="WORD=LEAST,OPTIMAL,MOST of an input's free dimension, for plans of TensorRT; repeatable."),
    ] = None,
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
    from edgeexit.bundle.manifest import Precision, Task
    from edgeexit.targets import load_target

    _require_one_of("--task", task, get_args(Task))
    _require_one_of("--precision", precision, get_args(Precision))
    os.environ.pop("TORCH_LOGS", None)  # torch logs past the end of the command otherwise
    compiler_warnings: list[str] = []
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr), progress_bar("loading torch") as bar:
        # What the user's code prints must not stand between the figures, nor torch's warnings beside the one error.
        warnings.simplefilter("ignore")
        from edgeexit.backends.tensorrt.engines import parse_dimensions
        from edgeexit.compiler import STEPS, compile_bundle, load_labels
        from edgeexit.datasets import load_arrays
        from edgeexit.signing import load_private_key

        signing_key = None if key is None else load_private_key(key)
        progress = bar.task_ids[0]
        bar.update(progress, total=len(STEPS))
        bundle = compile_bundle(
            model,
            out,
            target=target,
            inputs=input_ or (),
            example=None if example is None else load_arrays(example),
            exits=[] if exits is None else [name.strip() for name in exits.split(",")],
            task=task,  # type: ignore[arg-type]  # checked above, as is the precision
            precision=precision,  # type: ignore[arg-type]
            calibration=None if calibration is None else load_arrays(calibration),
            keep_fp32=keep_fp32 or (),
            max_loss=max_loss,
            dimensions=parse_dimensions(dimension or ()),
            name=name,
            labels=None if labels is None else load_labels(labels),
            replace=force,
            on_step=lambda step: bar.update(progress, description=step, completed=STEPS.index(step)),
            on_warning=compiler_warnings.append,
        )
        if signing_key is not None:
            bundle.sign(signing_key)

    for warning in compiler_warnings:
        warn(warning)
    manifest = bundle.manifest
    if as_json:
        print_json({"bundle": str(out), "digest": bundle.digest, "manifest": manifest})
        return
    _print_stages(manifest)
    kind = "real" if manifest.proof.source == "data" else "random"
    notes.print(f"proven on {manifest.proof.samples} {kind} samples; digest {bundle.digest[:12]}")
    device = load_target(manifest.target)
    if manifest.precision not in device.precisions:
        notes.print(f"{manifest.target} seldom gains from {manifest.precision}: measure it with `edgeexit profile`")
    elif manifest.precision == "fp32" != device.precisions[0]:
        notes.print(f"{manifest.target} is likely to gain from --precision {device.precisions[0]}")
    next_step(how_to_get_a_policy(out))
    if device.runtime == "tensorrt":  # it builds for no other GPU than its machine's
        next_step(f"copy {out} to the device, and there: edgeexit engines build {out.name}")
    elif device.runtime == "tensorrt_rtx":
        next_step(f"edgeexit engines build {out}, with --for where the GPU is in another machine")


def _print_stages(manifest: "Manifest") -> None:
    fidelity = {} if manifest.fidelity is None else manifest.fidelity.exits
    labelled = any(lost.accuracy is not None for lost in fidelity.values())
    columns = ["stage", "exit", "keeps, bytes a sample", "MACs", "max error"]
    columns += (["agrees with fp32"] if fidelity else []) + (["right", "right in fp32"] if labelled else [])
    rows = []
    for index, stage in enumerate(manifest.stages):
        lost = fidelity.get(stage.exit.name)
        rows.append(
            (
                stage.name,
                stage.exit.name,
                _bytes([tensor.bytes_per_sample for tensor in manifest.live_after(index)]),
                f"{stage.macs:,}",
                f"{manifest.proof.max_absolute_error[stage.exit.name]:.2g}",
                *([] if lost is None else [percent(lost.agreement)]),
                *(percent(accuracy) for accuracy in _accuracies(lost)),
            )
        )
    print_table(f"{manifest.model} for {manifest.target}, {manifest.precision}", columns, rows)


def _accuracies(lost: "ExitFidelity | None") -> list[float]:
    if lost is None or lost.accuracy is None or lost.accuracy_fp32 is None:
        return []
    return [lost.accuracy, lost.accuracy_fp32]


def _require_one_of(option: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"{option} '{value}' is none of {', '.join(known)}")


def _bytes(sizes: list[int | None]) -> str:
    return "varies" if None in sizes else f"{sum(size or 0 for size in sizes):,}"
