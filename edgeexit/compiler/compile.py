"""Compiles a model into a bundle: every step in order, and nothing left behind when one fails."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import onnx_ir as ir
import torch

from edgeexit import __version__
from edgeexit.bundle import POLICY, PROFILE, Bundle, Golden, bundle_folder, write_golden, write_manifest
from edgeexit.compiler.answers import ExitForm, Logits, answer, form_of
from edgeexit.compiler.assemble import with_costs, write_stages
from edgeexit.compiler.exits import choose_exits
from edgeexit.compiler.export import run_module
from edgeexit.compiler.graph import opset_of
from edgeexit.compiler.inputs import parse_inputs, repeat_to
from edgeexit.compiler.macs import cheaper_exit, count_macs
from edgeexit.compiler.model import ExportedModel, export_model
from edgeexit.compiler.sessions import Session, shapes_inside
from edgeexit.compiler.source import load_source
from edgeexit.compiler.stages import PROBE_BATCHES, check_exits, plan_stages
from edgeexit.compiler.verify import check_against_torch, prove
from edgeexit.compiler.weights import store_weights
from edgeexit.datasets import Dataset, Inputs
from edgeexit.errors import CompileError, DataError
from edgeexit.manifest import Manifest, Precision, Task
from edgeexit.targets import host_target, load_target

STEPS: Final = ("export", "split", "readout", "proof", "write")

_TORCH_SAMPLES = 32
_MADE_LATER = ((POLICY, "policy", "fit"), (PROFILE, "profile", "profile"))
_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")


def compile_bundle(
    source: str | Path | torch.nn.Module,
    out: str | Path,
    *,
    target: str | None = None,
    inputs: Sequence[str] = (),
    example: Inputs | Dataset | None = None,
    exits: Sequence[str] = (),
    task: Task | None = None,
    precision: Precision = "fp32",
    calibration: Inputs | Dataset | None = None,
    keep_fp32: Sequence[str] = (),
    most_loss: float = 0.01,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    replace: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Compile a multi-exit model into a bundle at `out` and return it, opened and verified.

    Args:
        source: a torch module, or what `edgeexit compile` takes: `package.module:factory`, `path/file.py:factory`,
            a `.pt2` or an `.onnx` file.
        out: folder of the bundle.
        target: name of the device kind; default: this machine's generic one.
        inputs: `NAME:SHAPE[:DTYPE]` of the model's inputs; a torch module needs them or an example.
        example: real samples, input name -> [N, ...]; up to 256 prove the split and the first 8 ship as golden
            samples. Without them both are random.
        exits: names of the outputs that are exits, shallow to deep; default: all, in the model's order.
        task: `classify` for exits [B, C], `segment` for [B, C, H, W]; default: as their rank tells.
        precision: of the numbers inside; `int8` needs calibration data or an example.
        calibration: samples like those that the device will see, with or without labels: they set the ranges of int8,
            and what each exit loses against fp32 is measured on them. Default: the example.
        keep_fp32: patterns of nodes, by name or operator, that stay in fp32.
        most_loss: share of answers that an exit may lose by its precision before `on_note` is told.
        name: of the model; default: the source's.
        labels: names of the classes.
        replace: replace a bundle that is there.
        on_step: told each of `STEPS` when it begins.
        on_note: told, in one line each, what was not done quite as asked or is probably not meant so.

    Raises CompileError for a model that cannot be compiled as asked, DataError for samples that do not fit it,
    BundleError when `out` is taken and TargetError for an unknown target. Then nothing is written.

    """
    target_name = target or host_target()
    device = load_target(target_name)
    given = parse_inputs(inputs, on_note=on_note)
    out = Path(out)
    lost = [(what, verb) for file, what, verb in _MADE_LATER if (out / file).exists()]
    with bundle_folder(out, replace=replace) as folder:
        on_step("export")
        source_name, loaded = load_source(source)
        if isinstance(loaded, torch.nn.Module) and any(part.training for part in loaded.modules()):
            on_note("the model was in training mode; it is compiled in evaluation mode")
        arrays = example.inputs if isinstance(example, Dataset) else example
        exported = export_model(loaded, inputs=given, example=arrays, opset=device.opset)
        if exits:
            exported = choose_exits(exported, exits)
        check_exits(exported.model.graph)
        store_weights(exported.model, folder)
        form, samples, whole = _answer_whole(exported, folder, task)
        classes = whole[exported.exits[0]].shape[1]
        if labels is not None and len(labels) != classes:
            raise DataError(f"there are {len(labels)} labels where the exits have {classes} classes")

        on_step("split")
        batches = [repeat_to(samples, size) for size in PROBE_BATCHES]
        plan = plan_stages(
            exported.model.graph, lambda names: shapes_inside(exported.model, names, batches, folder=folder)
        )

        on_step("readout")
        stages = write_stages(exported.model, plan, form, whole, folder)

        on_step("proof")
        specs = [stage.spec for stage in stages]
        sessions = [Session(folder / spec.file, what=spec.file) for spec in specs]
        proof = prove(sessions, specs, samples, whole, batch=form.batch, source="random" if arrays is None else "data")
        one = repeat_to(samples, 1)
        counts = count_macs(exported.model, lambda model, names: shapes_inside(model, names, [one], folder=folder))
        specs = [with_costs(stage, cut, counts) for stage, cut in zip(stages, plan.cuts, strict=True)]
        misplaced = cheaper_exit(exported.model.graph, counts)
        if misplaced is not None and not exits:
            raise CompileError(f"{misplaced}; return them so, or give --exits {','.join(exported.exits)} to keep this order")
        if misplaced is not None:
            on_note(misplaced)

        on_step("write")
        write_golden(
            folder,
            Golden(
                inputs={name: array[: form.golden] for name, array in samples.items()},
                exits={name: array[: form.golden] for name, array in whole.items()},
            ),
        )
        manifest = Manifest(
            model=name or source_name,
            task=form.task,
            target=target_name,
            precision="fp32",
            opset=opset_of(exported.model),
            inputs=exported.inputs,
            classes=classes,
            stages=tuple(specs),
            proof=proof,
            tools={"edgeexit": __version__} | {tool: version(tool) for tool in _TOOLS},
            files={},
            labels=None if labels is None else tuple(labels),
        )
        write_manifest(folder, manifest)
    for what, verb in lost:
        on_note(f"the replaced bundle's {what} is gone with it; run `edgeexit {verb}` on the new one")
    return Bundle.open(out)


def _answer_whole(exported: ExportedModel, folder: Path, task: Task | None) -> tuple[ExitForm, Inputs, Logits]:
    """Run the graph as it was before the split: the user's own file where there is one."""
    path = exported.file or folder / "whole.onnx"
    if exported.file is None:
        ir.save(exported.model, path)
    try:
        session = Session(path, what="the exported graph" if exported.file is None else f"'{exported.file}'")
        form = form_of(session, exported.samples, exported.exits, task=task)
        samples = {name: array[: form.samples] for name, array in exported.samples.items()}
        whole = answer(session, samples, exported.exits, form)
    finally:
        if exported.file is None:
            path.unlink()
    if exported.module is not None:
        few = {name: array[:_TORCH_SAMPLES] for name, array in samples.items()}
        check_against_torch(whole, run_module(exported.module, few))
    return form, samples, whole
