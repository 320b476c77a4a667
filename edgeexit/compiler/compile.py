"""Compiles a model into a bundle: runs every step in order, and removes all partial output when a step fails."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import torch

from edgeexit import __version__
from edgeexit.backends.base import load_engine_builder
from edgeexit.bundle import POLICY, PROFILE, Bundle, GoldenSamples, bundle_folder, write_golden, write_manifest
from edgeexit.bundle.manifest import Fidelity, Manifest, Precision, Proof, StageSpec
from edgeexit.compiler.assemble import with_costs, write_stages
from edgeexit.compiler.build_config import finish_build_config, start_build_config
from edgeexit.compiler.check_options import arrays_of, check_for_model, check_options, warn_of_unread
from edgeexit.compiler.exits.companions import tensors_by_exit
from edgeexit.compiler.exits.order import exits_by_inclusion, order_exits
from edgeexit.compiler.export.mask_inputs import declare_masks
from edgeexit.compiler.export.model import export_model
from edgeexit.compiler.full_model import FullModel, PrecisionRequest, prepare_full_model
from edgeexit.compiler.graph import opset_of
from edgeexit.compiler.loading.source import load_source
from edgeexit.compiler.macs import count_macs, find_early_companions
from edgeexit.compiler.options import CompileOptions
from edgeexit.compiler.precision.fidelity import loss_warnings, measure_fidelity
from edgeexit.compiler.samples import repeat_to
from edgeexit.compiler.sessions import ReferenceSession, probe_shapes
from edgeexit.compiler.splitting.batch_axis import find_batch_axes
from edgeexit.compiler.splitting.plan import check_exits, plan_stages
from edgeexit.compiler.torch_module.evaluation import is_training
from edgeexit.compiler.unpack.unpack import unpack_exits
from edgeexit.compiler.verify import prove_stages, rounding_of, staged_logits
from edgeexit.compiler.verify_companions import prove_companions
from edgeexit.errors import DataError
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.targets import host_target, load_target

STEPS: Final = ("export", "precision", "split", "readout", "proof", "write")
"""Names of the steps that `compile_bundle` reports, in order."""

_DELETED_ON_REPLACE = ((POLICY, "policy", "fit"), (PROFILE, "profile", "profile"))
"""Files of a bundle that the compiler does not write: file, name in the warning, command that writes the file."""
_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")


def compile_bundle(
    source: str | Path | torch.nn.Module,
    out: str | Path,
    options: CompileOptions | None = None,
    *,
    replace: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Bundle:
    """Compile a multi-exit model into a bundle at `out`; return it, opened and verified.

    Args:
        source: a torch module, or a model as `edgeexit compile` takes it: `package.module:factory`,
            `path/file.py:factory`, a `.pt2`, a `.pt` (TorchScript) or an `.onnx` file.
        out: folder of the bundle.
        options: what to compile for and how; default: `CompileOptions()`.
        replace: replace a bundle that exists at `out`.
        progress: receives each of `STEPS`, and a warning for each option that is not followed exactly and each property
            of the model that is probably not intended.

    Raises CompileError for a model that cannot be compiled as requested, DataError for samples or class names that do
    not match the model, EngineError for a stage that TensorRT does not support or a size range that is not increasing,
    TargetError for an unknown target, BundleError if `out` exists, and BundleError or CompileError if a file cannot be
    written. After an error, `out` is as it was before.

    """
    options = options or CompileOptions()
    target_name = host_target() if options.target is None else options.target
    device = load_target(target_name)
    input_specs = check_options(options, device, progress=progress)
    example = arrays_of(options.example) or arrays_of(options.calibration)
    out = Path(out)
    deleted = [(what, verb) for file, what, verb in _DELETED_ON_REPLACE if (out / file).exists()]
    with bundle_folder(out, replace=replace) as folder:
        progress.step("export")
        source_name, loaded = load_source(source, trust_pickle=options.trust_pickle)
        if isinstance(loaded, torch.nn.Module) and is_training(loaded):
            progress.warning("the model was in training mode; it is compiled in evaluation mode")
        check_for_model(options, input_specs, loaded)
        exported = export_model(
            loaded,
            inputs=input_specs,
            example=example,
            opset=device.opset,
            exits=options.exits,
            companions=options.companions,
            exporter=options.exporter,
            progress=progress,
        )
        exported = declare_masks(exported, options.masks, is_random=example is None)
        warn_of_unread(options, exported.inputs, progress)
        unpack_exits(exported.model)
        # Counting MACs needs a run of the model, so this early check sorts by inclusion only.
        by_inclusion = exits_by_inclusion(exported.model.graph, exported.exits)
        check_exits(exported.model.graph, by_inclusion, exported.companions)
        build_config = start_build_config(device, exported.inputs, options.dimensions)
        request = PrecisionRequest(
            options.precision,
            calibration=arrays_of(options.calibration) or example,
            keep_fp32=options.keep_fp32,
            placement=device.backend.qdq_placement,
            ignore_labels=options.ignore_labels,
        )
        full_model = prepare_full_model(exported, request, task=options.task, folder=folder, progress=progress)
        if options.class_names is not None and len(options.class_names) != full_model.classes:
            count = len(options.class_names)
            raise DataError(
                f"there are {count} class names, but the exits have {full_model.classes} classes; "
                "give one name per class"
            )

        progress.step("split")
        counts = _count_macs(full_model, folder)
        order = order_exits(full_model.model.graph, tuple(full_model.logits), counts, progress=progress)
        full_model = full_model.with_order(order)
        model, samples = full_model.model, full_model.samples
        companions = tensors_by_exit(full_model.companions)
        for early in find_early_companions(model.graph, tuple(full_model.logits), companions, counts):
            progress.warning(early)
        plan = plan_stages(
            model.graph, lambda names: find_batch_axes(model, names, samples, folder=folder), full_model.companions
        )

        progress.step("readout")
        blocks = device.architecture == "x86_64" and device.backend.blocked_layout and options.precision == "fp32"
        specs = write_stages(full_model, plan, folder, opset=device.opset, blocks=blocks)
        if device.backend.builds_engines:
            unchecked = load_engine_builder(device.backend).check_stages(folder, specs)
            if unchecked is not None:
                progress.warning(unchecked)

        progress.step("proof")
        proven = _prove(folder, specs, full_model, options.precision, real=example is not None)
        for warning in () if proven.fidelity is None else loss_warnings(proven.fidelity, options.max_loss):
            progress.warning(warning)
        specs = [with_costs(spec, stage, counts) for spec, stage in zip(specs, plan.stages, strict=True)]

        progress.step("write")
        write_golden(folder, proven.golden)
        manifest = Manifest(
            model=options.name or source_name,
            task=full_model.exit_format.task,
            target=target_name,
            precision=options.precision,
            opset=min(opset_of(full_model.model), device.opset),
            inputs=exported.inputs,
            classes=full_model.classes,
            stages=tuple(specs),
            proof=proven.proof,
            tool_versions={"edgeexit": __version__} | {tool: version(tool) for tool in _TOOLS},
            files={},
            class_names=None if options.class_names is None else tuple(options.class_names),
            keep_fp32=tuple(options.keep_fp32),
            masks=exported.masks,
            fidelity=proven.fidelity,
            build_config=finish_build_config(build_config, exported.inputs, specs, folder, progress=progress),
        )
        write_manifest(folder, manifest)
    for what, verb in deleted:
        progress.warning(f"the {what} of the replaced bundle was deleted with it; run `edgeexit {verb}` on the new one")
    return Bundle.open(out)


def _count_macs(full_model: FullModel, folder: Path) -> tuple[int | None, ...]:
    """Return the multiply-accumulates of each node; None for a node of unknown cost."""
    one = repeat_to(full_model.samples, 1)
    return count_macs(full_model.model, lambda model, names: probe_shapes(model, names, [one], folder=folder))


class _Proven(NamedTuple):
    """The results of the step `proof`."""

    proof: Proof
    fidelity: Fidelity | None
    """None without an fp32 reference."""
    golden: GoldenSamples


def _prove(
    folder: Path, specs: Sequence[StageSpec], full_model: FullModel, precision: Precision, *, real: bool
) -> _Proven:
    """Compare the stages with the full model, and with the fp32 reference if there is one; make the golden samples.

    `real` is False if the samples are random. Raises CompileError if a stage differs from the full model.
    """
    exit_format = full_model.exit_format
    shipped = [ReferenceSession(folder / spec.file, what=spec.file) for spec in specs]
    proven = shipped
    if precision != "fp32":  # `prepare_full_model` ran the full model without graph optimisations
        proven = [ReferenceSession(folder / spec.file, what=spec.file, optimise=False) for spec in specs]
    proof = prove_stages(
        proven,
        specs,
        full_model.samples,
        full_model.logits,
        rounding_of(full_model.model),
        batch_size=exit_format.batch_size,
        source="data" if real else "random",
    )
    companion_errors = prove_companions(
        proven,
        specs,
        full_model.samples,
        full_model.companions,
        expected=full_model.companion_values,
        rounding=rounding_of(full_model.model),
        batch_size=exit_format.batch_size,
    )
    proof = msgspec.structs.replace(proof, max_companion_error=companion_errors)
    few = {name: array[: exit_format.golden_samples] for name, array in full_model.samples.items()}
    golden = GoldenSamples(inputs=few, exits=staged_logits(shipped, specs, few, batch_size=exit_format.batch_size))
    reference = full_model.fp32_reference
    if reference is None:
        return _Proven(proof, None, golden)
    found = staged_logits(shipped, specs, reference.dataset.inputs, batch_size=exit_format.batch_size)
    return _Proven(proof, measure_fidelity(reference.logits, found, labels=reference.dataset.labels), golden)
