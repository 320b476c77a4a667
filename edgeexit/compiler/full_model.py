"""Runs the model before the split: first as the user gave it, then in the precision that ships."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import onnx_ir as ir

from edgeexit.bundle.manifest import Precision, Task
from edgeexit.compiler.exits.companion_values import (
    CompanionValues,
    check_companion_types,
    run_companions,
)
from edgeexit.compiler.exits.companions import Companions, output_tensors
from edgeexit.compiler.exits.forms import cast_exits, check_classes, convert_exits, to_logits
from edgeexit.compiler.exits.probabilities import check_activations, check_no_probabilities
from edgeexit.compiler.exits.run import ExitFormat, Logits, exit_format_of, run_exits
from edgeexit.compiler.export.model import ExportedModel
from edgeexit.compiler.independence import check_independence
from edgeexit.compiler.onnx_file.conversion import UserFile, prove_conversion
from edgeexit.compiler.precision.quantise import Placement
from edgeexit.compiler.precision.reduce import reduce_precision
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.torch_module.exit_module import run_module
from edgeexit.compiler.value_ranges import check_independence_of_range
from edgeexit.compiler.verify import check_against_torch, rounding_of
from edgeexit.compiler.verify_companions import check_companions_against_torch, check_companions_independent
from edgeexit.compiler.weights import save_graph, store_weights
from edgeexit.datasets import Dataset, Inputs, as_dataset, check_finite
from edgeexit.errors import DataError
from edgeexit.progress import NO_PROGRESS, Progress

_TORCH_BATCHES: Final = (1, 3, 32)
"""Batch sizes for which the graph is compared with the torch module."""


class Fp32Reference(NamedTuple):
    """The reference that a reduced precision is compared with."""

    dataset: Dataset
    logits: Logits
    """Logits of the fp32 model on `dataset`."""


class FullModel(NamedTuple):
    """The model to split, in the precision that ships, and the logits that the stages must reproduce."""

    model: ir.Model
    exit_format: ExitFormat
    samples: Inputs
    """Input name -> [N, ...]."""
    logits: Logits
    """Logits of `model` on `samples`."""
    fp32_reference: Fp32Reference | None
    """None if the precision is fp32, or if the samples are random."""
    companions: Companions = ()
    companion_values: CompanionValues = MappingProxyType({})
    """Companions of `model` on `samples`."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(next(iter(self.logits.values())).shape[1])

    def with_order(self, order: Sequence[str]) -> "FullModel":
        """Return the model with its exits in another order, each with its companions; the graph is changed in place."""
        companions = tuple(sorted(self.companions, key=lambda companion: order.index(companion.exit)))
        outputs = {str(value.name): value for value in self.model.graph.outputs}
        self.model.graph.outputs.clear()
        self.model.graph.outputs.extend(outputs[name] for name in output_tensors(order, companions))
        reference = self.fp32_reference
        if reference is not None:
            reference = reference._replace(logits={name: reference.logits[name] for name in order})
        logits = {name: self.logits[name] for name in order}
        return self._replace(logits=logits, companions=companions, fp32_reference=reference)


class PrecisionRequest(NamedTuple):
    """The requested precision, and how to convert the model to it."""

    precision: Precision
    calibration: Inputs | None
    """Real samples, input name -> [N, ...], with or without `labels`."""
    keep_fp32: Sequence[str]
    """Patterns of nodes that stay in fp32."""
    placement: Placement
    """Position of the Q/DQ pairs in int8."""
    ignore_labels: Sequence[int] | None = None
    """Labels in the calibration data that do not count; None: the default of the task."""


def prepare_full_model(
    exported: ExportedModel,
    request: PrecisionRequest,
    *,
    task: Task | None,
    folder: Path,
    progress: Progress = NO_PROGRESS,
) -> FullModel:
    """Run the model in fp32, check it against torch, convert its exits to logits, reduce its precision, run it again.

    The weights of the returned model are written to `folder`. Reports the step `precision` when it begins. Raises
    CompileError for a model that does not run, has invalid exits, mixes samples, differs from torch, or cannot be
    converted to the precision; DataError for samples or calibration data that do not match the model.
    """
    check_companion_types(exported.model.graph, exported.companions)
    check_activations(exported.model.graph, exported.exits)
    cast_exits(exported.model, exported.exits)
    if request.precision == "fp32":
        store_weights(exported.model, folder)
        session = _open_original(exported, folder, progress)
        exit_format, samples, logits, companion_values = _run_original(exported, session, folder, task, progress)
        progress.step("precision")
        model = reduce_precision(exported.model, "fp32", keep_fp32=request.keep_fp32, folder=folder)
        return FullModel(model, exit_format, samples, logits, None, exported.companions, companion_values)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fp32.") as scratch:
        store_weights(exported.model, Path(scratch))
        session = _open_original(exported, Path(scratch), progress)
        exit_format, samples, logits, _ = _run_original(exported, session, Path(scratch), task, progress)
        progress.step("precision")
        reference = None
        classes = logits[exported.exits[0]].shape[1]
        calibration = _calibration(request, exported, task=exit_format.task, classes=classes, progress=progress)
        if calibration is not None:
            # The logits must fit into memory; the int8 ranges are set on all samples.
            compared = _first(calibration, exit_format.max_samples)
            reference = Fp32Reference(compared, run_exits(session, compared.inputs, exported.exits, exit_format))
            _check_size_of_labels(reference)
        model = reduce_precision(
            exported.model,
            request.precision,
            samples=samples,
            calibration=calibration,
            keep_fp32=request.keep_fp32,
            folder=Path(scratch),
            placement=request.placement,
            masks=exported.masks,
            progress=progress,
        )
        store_weights(model, folder)
    session = _open(model, folder, optimise=False)
    logits = run_exits(session, samples, exported.exits, exit_format)
    companion_values = run_companions(session, samples, exported.companions, batch_size=exit_format.batch_size)
    return FullModel(model, exit_format, samples, logits, reference, exported.companions, companion_values)


def _open_original(exported: ExportedModel, folder: Path, progress: Progress) -> ReferenceSession:
    """Open the user's ONNX file, or the exported graph; a converted file is replaced by the graph that equals it."""
    if exported.file is None:
        return _open(exported.model, folder)
    if exported.conversion.is_empty:
        return ReferenceSession(exported.file, what=f"'{exported.file}'")
    original = UserFile(exported.file, exported.conversion)
    session = prove_conversion(
        original,
        lambda: _open(exported.model, folder),
        exported.samples,
        tuple(dict.fromkeys((*exported.exits, *(companion.output for companion in exported.companions)))),
        exported.conversion,
    )
    progress.warning(f"the file was converted, {exported.conversion.changes()}, and its exits returned the same logits")
    return session


def _open(model: ir.Model, folder: Path, *, optimise: bool = True) -> ReferenceSession:
    """Open a model, whose weights are in `folder`."""
    path = folder / "full_model.onnx"
    try:
        save_graph(model, path)
        return ReferenceSession(path, what="the exported graph", optimise=optimise)
    finally:
        path.unlink(missing_ok=True)


def _run_original(
    exported: ExportedModel, session: ReferenceSession, folder: Path, task: Task | None, progress: Progress
) -> tuple[ExitFormat, Inputs, Logits, CompanionValues]:
    """Run the model as given, and convert its exits to logits.

    Return the format of the exits, the samples that were run, their logits and their companions.
    """
    check_finite(exported.samples, where="samples", masks=exported.masks)
    exit_format = exit_format_of(
        session, exported.samples, exported.exits, task=task, unsure=_exits_of_unknown_size(exported)
    )
    for warning in exit_format.warnings:
        progress.warning(warning)
    one = {name: array[:1] for name, array in exported.samples.items()}
    first = run_companions(session, one, exported.companions, batch_size=1)
    size = exit_format.bytes_per_sample + sum(array.nbytes for array in first.values())
    exit_format = exit_format._replace(bytes_per_sample=size)
    samples = {name: array[: exit_format.max_samples] for name, array in exported.samples.items()}
    logits = run_exits(session, samples, exported.exits, exit_format)
    companion_values = run_companions(session, samples, exported.companions, batch_size=exit_format.batch_size)
    rounding = rounding_of(exported.model)
    if exported.module is not None:
        count = len(next(iter(samples.values())))
        for size in sorted({min(size, count) for size in _TORCH_BATCHES}):
            few = {name: array[:size] for name, array in samples.items()}
            outputs = run_module(exported.module, few)
            expected = {name: to_logits(outputs[name], form) for name, form in exit_format.forms.items()}
            found = run_exits(session, few, exported.exits, exit_format)
            check_against_torch(found, expected, rounding)
            found_companions = run_companions(session, few, exported.companions, batch_size=size)
            check_companions_against_torch(exported.companions, found_companions, outputs, rounding)
    check_independence(session, samples, logits, rounding, model=exported.model, folder=folder)
    check_companions_independent(session, samples, exported.companions, companion_values, rounding)
    compared = dict.fromkeys((*exported.exits, *(companion.output for companion in exported.companions)))
    check_independence_of_range(session, samples, tuple(compared), model=exported.model, folder=folder)
    check_no_probabilities(exported.model.graph, logits)
    convert_exits(exported.model, exit_format.forms)
    check_classes(exported.model.graph, exported.exits, task=exit_format.task)
    return exit_format, samples, logits, companion_values


def _exits_of_unknown_size(exported: ExportedModel) -> list[str]:
    """Return the exits whose maps may be larger than those of the samples, because an input has a symbolic size."""
    if not any(isinstance(size, str) for spec in exported.inputs for size in spec.shape[1:]):
        return []
    shapes = {str(value.name): value.shape for value in exported.model.graph.outputs}
    return [
        name
        for name in exported.exits
        if (shape := shapes[name]) is None or not all(isinstance(size, int) for size in list(shape)[2:])
    ]


def _calibration(
    request: PrecisionRequest, exported: ExportedModel, *, task: Task, classes: int, progress: Progress
) -> Dataset | None:
    """Return the calibration data, if there is any, as a data set. Raises DataError if it does not match the model."""
    if request.calibration is None:
        return None
    data = as_dataset(
        request.calibration,
        exported.inputs,
        task=task,
        classes=classes,
        ignore_labels=request.ignore_labels,
        where="calibration data",
    )
    check_finite(data.inputs, where="calibration data", masks=exported.masks)
    for warning in data.warnings:
        progress.warning(warning)
    if data.ignored is not None:
        progress.warning(f"calibration data: {data.ignored}")
    return data


def _check_size_of_labels(reference: Fp32Reference) -> None:
    """Raise DataError if the labels are maps of another size than the exits' maps on the same samples."""
    labels, logits = reference.dataset.labels, next(iter(reference.logits.values()))
    if labels is not None and labels.shape[1:] != logits.shape[2:]:
        maps = ("x".join(map(str, shape)) for shape in (labels.shape[1:], logits.shape[2:]))
        raise DataError(
            "calibration data: 'labels' are maps of {}, but the exits' maps are {}; resize the labels".format(*maps)
        )


def _first(data: Dataset, count: int) -> Dataset:
    """Return the first `count` samples."""
    return Dataset(
        inputs={name: array[:count] for name, array in data.inputs.items()},
        labels=None if data.labels is None else data.labels[:count],
    )
