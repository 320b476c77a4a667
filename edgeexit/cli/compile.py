"""`edgeexit compile`: compile a trained multi-exit model into a bundle."""

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.cli.data_files import IgnoreLabel, parse_ignore_labels
from edgeexit.cli.private_keys import load_key
from edgeexit.console import next_step, notes, print_json, print_table, printable, show_progress, warn
from edgeexit.formatting import percent
from edgeexit.progress import Progress

if TYPE_CHECKING:
    from edgeexit.bundle.manifest import ExitFidelity, Manifest


def compile_command(
    model: Annotated[
        str, typer.Argument(help="package.module:factory, path/file.py:factory, a .pt2, .pt or .onnx file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    target: Annotated[
        str | None, typer.Option(help="Target device; default: the generic target of this machine.")
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="NAME:SHAPE[:DTYPE] of a model input; the first dimension is the batch. Repeatable."
        ),
    ] = None,
    example: Annotated[
        Path | None, typer.Option(help="Real samples (.npz) for the proof and the golden samples.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of an input that is an attention mask, with values down to minus infinity. Repeatable."
        ),
    ] = None,
    exits: Annotated[
        str | None,
        typer.Option(
            help="NAME,NAME,...: the outputs that are exits, or patterns ('0.*'), shallow to deep; default: all."
        ),
    ] = None,
    companion: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=OUTPUT,OUTPUT,...: outputs to deliver beside the logits, one per exit, as in "
            "boxes=boxes0,boxes1. Repeatable."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, segmentation or tagging (logits per token); default: the shapes of the exits decide."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(help="Samples (.npz) that set the int8 ranges and measure the loss; default: --example."),
    ] = None,
    ignore_label: IgnoreLabel = None,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            help="Pattern of nodes that stay in fp32: their names, operators, outputs or weights. Repeatable."
        ),
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Warn if an exit loses more accuracy than this fraction (without labels: if more predictions change).",
        ),
    ] = 0.01,
    dimension: Annotated[
        list[str] | None,
        typer.Option(help="NAME=MIN,OPT,MAX sizes of a symbolic input dimension, for TensorRT plans. Repeatable."),
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file with the class names, one per line.")] = None,
    exporter: Annotated[
        str,
        typer.Option(help="How to trace a torch module: auto, export or strict (both torch.export), torchscript."),
    ] = "auto",
    trust_pickle: Annotated[
        bool, typer.Option(help="Load a .pt2 or .pt file even if that can run any code on this machine.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the name of the source.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing bundle.")] = False,
    key: Annotated[Path | None, typer.Option(help="Private key to sign the bundle with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Compile a model into a bundle: one graph per stage, proven to return the same logits as the full model.

    The model's forward returns its exits, shallow to deep, as a tuple, list or dict of logits. An ONNX file has one
    output per exit.

    Example: `edgeexit compile mynet.py:make --input image:batch,1,32,32 --example images.npz --out bundle`
    """
    from edgeexit.bundle.manifest import Precision, Task
    from edgeexit.targets import load_target

    _require_one_of("--task", task, get_args(Task))
    _require_one_of("--precision", precision, get_args(Precision))
    os.environ.pop("TORCH_LOGS", None)  # with this variable, torch logs even after the command has ended
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        # Standard output is for the result only: prints of the user's code go to standard error.
        warnings.simplefilter("ignore")
        with show_progress("loading torch"):
            from edgeexit.backends.dimensions import parse_dimensions
            from edgeexit.bundle import SIGNATURE
            from edgeexit.compiler import STEPS, CompileOptions, compile_bundle, load_class_names
            from edgeexit.compiler.exits.companions import parse_companions
            from edgeexit.datasets import load_arrays

        signing_key = None if key is None else load_key(key)
        if force and key is None and (out / SIGNATURE).exists():
            warn(f"bundle '{out}' is signed, and the one that replaces it will not be; sign it with --key")
        options = CompileOptions(
            target=target,
            inputs=input_ or (),
            example=None if example is None else load_arrays(example),
            masks=mask or (),
            exits=[] if exits is None else [name.strip() for name in exits.split(",")],
            companions=parse_companions(companion or ()),
            task=task,  # type: ignore[arg-type]  # checked above, as is the precision
            precision=precision,  # type: ignore[arg-type]
            calibration=None if calibration is None else load_arrays(calibration),
            ignore_labels=parse_ignore_labels(ignore_label),
            keep_fp32=keep_fp32 or (),
            max_loss=max_loss,
            dimensions=parse_dimensions(dimension or ()),
            exporter=exporter,  # type: ignore[arg-type]
            trust_pickle=trust_pickle,
            name=name,
            class_names=None if class_names is None else load_class_names(class_names),
        )
        with show_progress("compiling", steps=STEPS) as shown:
            progress = _CompileProgress(shown)
            bundle = compile_bundle(model, out, options, replace=force, progress=progress)
        if signing_key is not None:
            bundle.sign(signing_key)

    for warning in progress.warnings:
        warn(warning)
    manifest = bundle.manifest
    if as_json:
        print_json({"bundle": str(out), "digest": bundle.digest, "manifest": manifest})
        return
    _print_stages(manifest)
    kind = "real" if manifest.proof.source == "data" else "random"
    notes.print(f"proven on {manifest.proof.samples} {kind} samples; digest {bundle.digest[:12]}")
    if manifest.companions:
        notes.print(f"companions of every exit: {printable(', '.join(manifest.companions))}")
    device = load_target(manifest.target)
    if manifest.precision not in device.precisions:
        notes.print(f"{manifest.precision} is rarely faster on {manifest.target}; measure it with `edgeexit profile`")
    elif manifest.precision == "fp32" != device.precisions[0]:
        notes.print(f"--precision {device.precisions[0]} is probably faster on {manifest.target}")
    next_step(how_to_get_a_policy(out))
    if device.backend.builds_ahead_of_time:
        next_step(f"edgeexit engines build {out}; add --for if the GPU is in another machine")
    elif device.backend.builds_engines:
        next_step(f"copy {out} to the device, then run there: edgeexit engines build {out.name}")


class _CompileProgress(Progress):
    """Shows the steps, and collects the warnings, because a compilation that fails prints only its error."""

    def __init__(self, shown: Progress) -> None:
        self.warnings: list[str] = []
        self._shown = shown

    def step(self, name: str) -> None:
        self._shown.step(name)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def _print_stages(manifest: "Manifest") -> None:
    fidelity = {} if manifest.fidelity is None else manifest.fidelity.exits
    labelled = any(lost.accuracy is not None for lost in fidelity.values())
    columns = ["stage", "exit", "live bytes per sample", "MACs", "max error"]
    columns += (["agreement with fp32"] if fidelity else []) + (["accuracy", "accuracy in fp32"] if labelled else [])
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
        raise typer.BadParameter(f"{option} '{value}' is not one of {', '.join(known)}")


def _bytes(sizes: list[int | None]) -> str:
    return "varies" if None in sizes else f"{sum(size or 0 for size in sizes):,}"
