"""Compiles a model into a bundle: every step in order, and nothing left behind when one fails."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes

from edgeexit import __version__
from edgeexit.bundle import POLICY, PROFILE, Bundle, Golden, bundle_folder, write_golden, write_manifest
from edgeexit.compiler.export import run_module
from edgeexit.compiler.graph import check, infer_shapes, opset_of
from edgeexit.compiler.inputs import BATCH, parse_inputs, repeat_to
from edgeexit.compiler.macs import Shape, cheaper_exit, count_macs, operands
from edgeexit.compiler.model import ExportedModel, export_model
from edgeexit.compiler.readout import add_readout
from edgeexit.compiler.sessions import Session, shapes_inside
from edgeexit.compiler.source import load_source
from edgeexit.compiler.stages import PROBE_BATCHES, Plan, build_stage, check_exits, plan_stages
from edgeexit.compiler.verify import Logits, answer_whole, check_against_torch, compose, prove
from edgeexit.compiler.weights import store_weights
from edgeexit.datasets import Dataset, Inputs
from edgeexit.errors import DataError
from edgeexit.manifest import Manifest, StageSpec, TensorSpec
from edgeexit.targets import host_target, load_target

STEPS: Final = ("export", "split", "readout", "proof", "write")

_GOLDEN_SAMPLES = 8
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
        name: of the model; default: the source's.
        labels: names of the classes.
        replace: replace a bundle that is there.
        on_step: told each of `STEPS` when it begins.
        on_note: told, in one line each, what was not done quite as asked or is probably not meant so.

    Raises CompileError for a model that cannot be compiled as asked, DataError for samples that do not fit it,
    BundleError when `out` is taken and TargetError for an unknown target. Then nothing is written.

    """
    target_name = target or host_target()
    opset = load_target(target_name).opset
    given = parse_inputs(inputs, on_note=on_note)
    out = Path(out)
    lost = [(what, verb) for file, what, verb in _MADE_LATER if (out / file).exists()]
    with bundle_folder(out, replace=replace) as folder:
        on_step("export")
        source_name, loaded = load_source(source)
        if isinstance(loaded, torch.nn.Module) and any(part.training for part in loaded.modules()):
            on_note("the model was in training mode; it is compiled in evaluation mode")
        arrays = example.inputs if isinstance(example, Dataset) else example
        exported = export_model(loaded, inputs=given, example=arrays, opset=opset)
        check_exits(exported.model.graph)
        store_weights(exported.model, folder)
        exits = exported.exits
        whole = _answer_whole(exported, folder)
        classes = whole[exits[0]].shape[1]
        if labels is not None and len(labels) != classes:
            raise DataError(f"there are {len(labels)} labels where the exits have {classes} classes")

        on_step("split")
        batches = [repeat_to(exported.samples, size) for size in PROBE_BATCHES]
        plan = plan_stages(
            exported.model.graph, lambda names: shapes_inside(exported.model, names, batches, folder=folder)
        )

        on_step("readout")
        stages = [_write_stage(exported.model, plan, index, classes, folder) for index in range(len(exits))]

        on_step("proof")
        specs = [spec for _, spec in stages]
        sessions = [Session(folder / spec.file, what=spec.file) for spec in specs]
        proof = prove(sessions, specs, exported.samples, whole, source="random" if arrays is None else "data")
        one = repeat_to(exported.samples, 1)
        specs = [
            msgspec.structs.replace(spec, macs=count_macs(*_products(stage, run.feeds, folder)))
            for (stage, spec), run in zip(stages, compose(sessions, specs, one), strict=True)
        ]
        misplaced = cheaper_exit(*_products(exported.model, one, folder))
        if misplaced is not None:
            on_note(misplaced)

        on_step("write")
        write_golden(
            folder,
            Golden(
                inputs={name: array[:_GOLDEN_SAMPLES] for name, array in exported.samples.items()},
                exits={name: array[:_GOLDEN_SAMPLES] for name, array in whole.items()},
            ),
        )
        manifest = Manifest(
            model=name or source_name,
            task="classify",
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


def _answer_whole(exported: ExportedModel, folder: Path) -> Logits:
    """Run the graph as it was before the split: the user's own file where there is one."""
    if exported.file is not None:
        return answer_whole(Session(exported.file, what=f"'{exported.file}'"), exported.samples, exported.exits)
    path = folder / "whole.onnx"
    ir.save(exported.model, path)
    try:
        whole = answer_whole(Session(path, what="the exported graph"), exported.samples, exported.exits)
    finally:
        path.unlink()
    if exported.module is not None:
        few = {name: array[:_TORCH_SAMPLES] for name, array in exported.samples.items()}
        check_against_torch(whole, run_module(exported.module, few))
    return whole


def _write_stage(model: ir.Model, plan: Plan, index: int, classes: int, folder: Path) -> tuple[ir.Model, StageSpec]:
    """Build, check and write one stage; its cost is filled in after the proof has run it."""
    stage = build_stage(model, plan, index)
    graph, cut = stage.graph, plan.cuts[index]
    carry_in = [plan.carries[name].spec.name for name in cut.carry_in]
    exit_value = graph.outputs[-1]
    exit_value.type, exit_value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([BATCH, classes])
    spec = StageSpec(
        name=f"stage{index}",
        file=f"stage{index}.onnx",
        exit=TensorSpec(name=str(exit_value.name), dtype="float32", shape=(BATCH, classes)),
        inputs=tuple(str(value.name) for value in graph.inputs if value.name not in carry_in),
        carry_in=tuple(carry_in),
        carry_out=tuple(plan.carries[name].spec for name in cut.carry_out),
        macs=0,
    )
    add_readout(graph, exit_value)
    infer_shapes(stage)
    check(stage, what=spec.name)
    ir.save(stage, folder / spec.file)
    return stage, spec


def _products(model: ir.Model, feeds: Inputs, folder: Path) -> tuple[ir.Graph, dict[str, Shape]]:
    """Return a graph without functions, and the shapes of its `operands` when it runs on `feeds`."""
    inlined = model.clone()
    passes.InlinePass()(inlined)
    names = [str(value.name) for value in operands(inlined.graph)]
    if not names:
        return inlined.graph, {}
    (shapes,) = shapes_inside(inlined, names, [feeds], folder=folder)
    return inlined.graph, {name: shape for name, (_, shape) in shapes.items()}
