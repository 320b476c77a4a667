"""Compiles a model into a bundle: every step in order, and nothing left behind when one fails."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple, get_args

import torch

from edgeexit import __version__
from edgeexit.backends.tensorrt.engines import check_stages
from edgeexit.bundle import POLICY, PROFILE, Bundle, GoldenSamples, bundle_folder, write_golden, write_manifest
from edgeexit.bundle.manifest import Fidelity, Manifest, Precision, Proof, StageSpec, Task
from edgeexit.compiler.assemble import with_costs, write_stages
from edgeexit.compiler.build_config import finish_build_config, start_build_config
from edgeexit.compiler.exits import choose_exits
from edgeexit.compiler.export.inputs import parse_inputs, repeat_to
from edgeexit.compiler.export.model import export_model
from edgeexit.compiler.export.source import load_source
from edgeexit.compiler.full_model import Reduction, Whole, prepare_whole
from edgeexit.compiler.graph import is_half, is_quantised, opset_of
from edgeexit.compiler.macs import cheaper_exit, count_macs
from edgeexit.compiler.precision.fidelity import losses, measure_fidelity
from edgeexit.compiler.sessions import ReferenceSession, shapes_inside
from edgeexit.compiler.splitting.stages import PROBE_BATCHES, SplitPlan, check_exits, plan_stages
from edgeexit.compiler.verify import answer_staged, prove
from edgeexit.datasets import LABELS, Dataset, Inputs
from edgeexit.errors import CompileError, DataError
from edgeexit.targets import host_target, load_target

STEPS: Final = ("export", "precision", "split", "readout", "proof", "write")

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
    max_loss: float = 0.01,
    dimensions: Mapping[str, tuple[int, int, int]] | None = None,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    replace: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Compile a multi-exit model into a bundle at `out` and return it, opened and verified.

    Args:
        source: a torch module, or what `edgeexit compile` takes: `package.module:factory`, `path/file.py:factory`,
            a `.pt2` or an `.onnx` file.
        out: folder of the bundle.
        target: name of the device kind; default: this machine's generic one.
        inputs: `NAME:SHAPE[:DTYPE]` of the model's inputs; a torch module needs them or an example.
        example: real samples, input name -> [N, ...]; up to 256 prove the split and the first 8 ship as golden
            samples. Default: the calibration data; without either both are random.
        exits: names of the outputs that are exits, shallow to deep; default: all, in the model's order.
        task: `classify` for exits [B, C], `segment` for [B, C, H, W]; default: as their rank tells.
        precision: of the numbers inside; `int8` needs calibration data or an example.
        calibration: samples like those that the device will see, with or without labels: they set the ranges of int8,
            and what each exit loses against fp32 is measured on them. Default: the example.
        keep_fp32: patterns of nodes, by name or operator, that stay in fp32.
        most_loss: share of answers that an exit may lose by its precision before `on_warning` is told.
        dimensions: least, optimal and most sizes of the inputs' dimensions known only at run time, by their words, for
            plans of TensorRT.
        name: of the model; default: the source's.
        labels: names of the classes.
        replace: replace a bundle that is there.
        on_step: told each of `STEPS` when it begins.
        on_note: told, in one line each, what was not done quite as asked or is probably not meant so.

    Raises CompileError for a model that cannot be compiled as asked, DataError for samples that do not fit it,
    EngineError for what TensorRT does not take, BundleError when `out` is taken or the disk is full, and TargetError
    for an unknown target. Then nothing is written.

    """
    _require_known("precision", precision, get_args(Precision))
    _require_known("task", task, get_args(Task))
    target_name = target or host_target()
    device = load_target(target_name)
    given = parse_inputs(inputs, on_warning=on_warning)
    out = Path(out)
    lost = [(what, verb) for file, what, verb in _MADE_LATER if (out / file).exists()]
    with bundle_folder(out, replace=replace) as folder:
        on_step("export")
        source_name, loaded = load_source(source)
        if isinstance(loaded, torch.nn.Module) and any(part.training for part in loaded.modules()):
            on_warning("the model was in training mode; it is compiled in evaluation mode")
        arrays = _arrays(example) or _arrays(calibration)
        exported = export_model(loaded, inputs=given, example=arrays, opset=device.opset)
        if exits:
            exported = choose_exits(exported, exits)
        check_exits(exported.model.graph)
        build_config = start_build_config(device, exported.inputs, dimensions or {})
        reduction = Reduction(
            precision,
            calibration=_arrays(calibration) or arrays,
            keep_fp32=keep_fp32,
            placement="around" if device.runtime == "onnxruntime" else "before",
        )
        whole = prepare_whole(exported, reduction, task=task, folder=folder, on_step=on_step, on_warning=on_warning)
        if labels is not None and len(labels) != whole.classes:
            raise DataError(f"there are {len(labels)} labels where the exits have {whole.classes} classes")

        on_step("split")
        batches = [repeat_to(whole.samples, size) for size in PROBE_BATCHES]
        plan = plan_stages(whole.model.graph, lambda names: shapes_inside(whole.model, names, batches, folder=folder))

        on_step("readout")
        blocks = device.architecture == "x86_64" and device.runtime == "onnxruntime" and precision == "fp32"
        specs = write_stages(whole.model, plan, whole.form, whole.answers, folder, opset=device.opset, blocks=blocks)
        if device.runtime != "onnxruntime":
            unseen = check_stages(folder, specs)
            if unseen is not None:
                on_warning(unseen)

        on_step("proof")
        proof, fidelity, golden = _prove(folder, specs, whole, precision, real=arrays is not None)
        for loss in () if fidelity is None else losses(fidelity, max_loss):
            on_warning(loss)
        specs = _count_costs(whole, plan, specs, folder, order_is_given=bool(exits), on_warning=on_warning)

        on_step("write")
        write_golden(folder, golden)
        manifest = Manifest(
            model=name or source_name,
            task=whole.form.task,
            target=target_name,
            precision=precision,
            opset=min(opset_of(whole.model), device.opset),
            inputs=exported.inputs,
            classes=whole.classes,
            stages=tuple(specs),
            proof=proof,
            tool_versions={"edgeexit": __version__} | {tool: version(tool) for tool in _TOOLS},
            files={},
            class_names=None if labels is None else tuple(labels),
            keep_fp32=tuple(keep_fp32),
            fidelity=fidelity,
            build_config=finish_build_config(build_config, exported.inputs, specs, folder, on_warning=on_warning),
        )
        write_manifest(folder, manifest)
    for what, verb in lost:
        on_warning(f"the replaced bundle's {what} is gone with it; run `edgeexit {verb}` on the new one")
    return Bundle.open(out)


def _require_known(what: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise CompileError(f"{what} '{value}' is none of {', '.join(known)}")


def _count_costs(
    whole: Whole,
    plan: SplitPlan,
    specs: Sequence[StageSpec],
    folder: Path,
    *,
    order_is_given: bool,
    on_warning: Callable[[str], None],
) -> list[StageSpec]:
    """Return the stages' specifications with their costs. Raises CompileError where those say an exit is misplaced."""
    one = repeat_to(whole.samples, 1)
    counts = count_macs(whole.model, lambda model, names: shapes_inside(model, names, [one], folder=folder))
    misplaced = cheaper_exit(whole.model.graph, counts)
    if misplaced is not None and not order_is_given:
        named = ",".join(whole.answers)
        raise CompileError(f"{misplaced}; return them so, or keep this order with --exits {named}")
    if misplaced is not None:
        on_warning(misplaced)
    return [with_costs(spec, cut, counts) for spec, cut in zip(specs, plan.cuts, strict=True)]


class _Proven(NamedTuple):
    proof: Proof
    fidelity: Fidelity | None
    golden: GoldenSamples


def _prove(folder: Path, specs: Sequence[StageSpec], whole: Whole, precision: Precision, *, real: bool) -> _Proven:
    """Prove the stages, measure what their precision costs where there is something to measure it against."""
    shipped = [ReferenceSession(folder / spec.file, what=spec.file) for spec in specs]
    proven = shipped
    if precision != "fp32":  # as the whole model was run: every node as it stands
        proven = [ReferenceSession(folder / spec.file, what=spec.file, optimise=False) for spec in specs]
    proof = prove(
        proven,
        specs,
        whole.samples,
        whole.answers,
        half=is_half(whole.model),
        quantised=is_quantised(whole.model),
        batch=whole.form.batch,
        source="data" if real else "random",
    )
    few = {name: array[: whole.form.golden] for name, array in whole.samples.items()}
    golden = GoldenSamples(inputs=few, exits=answer_staged(shipped, specs, few, batch=whole.form.batch))
    if whole.reference is None:
        return _Proven(proof, None, golden)
    data, answers = whole.reference
    found = answer_staged(shipped, specs, data.inputs, batch=whole.form.batch)
    return _Proven(proof, measure_fidelity(answers, found, labels=data.labels), golden)


def _arrays(data: Inputs | Dataset | None) -> Inputs | None:
    if not isinstance(data, Dataset):
        return data
    return data.inputs if data.labels is None else {**data.inputs, LABELS: data.labels}
