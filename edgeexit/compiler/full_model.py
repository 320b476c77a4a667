"""The model before the split: what it answers as the user brought it, and in the precision that ships."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir

from edgeexit.bundle.manifest import Precision, Task
from edgeexit.compiler.answers import ExitForm, Logits, answer, form_of
from edgeexit.compiler.export.model import ExportedModel
from edgeexit.compiler.export.torch_export import run_module
from edgeexit.compiler.graph import is_half, is_quantised
from edgeexit.compiler.precision.quantise import Placement
from edgeexit.compiler.precision.reduce import reduce_precision
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.verify import check_against_torch, check_independence
from edgeexit.compiler.weights import save_graph, store_weights
from edgeexit.datasets import Dataset, Inputs, as_dataset, check_finite
from edgeexit.errors import DataError

_TORCH_SAMPLES = 32


class Reference(NamedTuple):
    """What to measure a precision against."""

    data: Dataset
    answers: Logits
    """In fp32."""


class Whole(NamedTuple):
    """The model that is split, its weights stored, and what the stages have to answer."""

    model: ir.Model
    form: ExitForm
    samples: Inputs
    answers: Logits
    reference: Reference | None
    """None in fp32, and without real samples."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(next(iter(self.answers.values())).shape[1])


class Reduction(NamedTuple):
    """The precision that is asked for."""

    precision: Precision
    calibration: Inputs | None
    keep_fp32: Sequence[str]
    placement: Placement


def prepare_whole(
    exported: ExportedModel,
    reduction: Reduction,
    *,
    task: Task | None,
    folder: Path,
    on_step: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> Whole:
    """Answer the samples in fp32, check that against torch, reduce the precision and answer them again.

    The weights of what is returned stand in `folder`. `on_step` is told `precision` when that begins. Raises
    CompileError and DataError.
    """
    if reduction.precision == "fp32":
        store_weights(exported.model, folder)
        session = _open(exported.model, folder, exported.file)
        form, samples, answers = _answer_original(exported, session, task)
        on_step("precision")
        model = reduce_precision(exported.model, "fp32", keep_fp32=reduction.keep_fp32, folder=folder)
        return Whole(model, form, samples, answers, None)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fp32.") as scratch:
        store_weights(exported.model, Path(scratch))
        session = _open(exported.model, Path(scratch), exported.file)
        form, samples, answers = _answer_original(exported, session, task)
        on_step("precision")
        calibration = reference = None
        if reduction.calibration is not None:
            calibration = _calibration(reduction.calibration, exported, form, answers)
            measured = _first(calibration, form.samples)
            reference = Reference(measured, answer(session, measured.inputs, exported.exits, form))
        model = reduce_precision(
            exported.model,
            reduction.precision,
            samples=samples,
            calibration=calibration,
            keep_fp32=reduction.keep_fp32,
            folder=Path(scratch),
            placement=reduction.placement,
            on_warning=on_warning,
        )
        store_weights(model, folder)
    session = _open(model, folder, None, optimise=False)
    return Whole(model, form, samples, answer(session, samples, exported.exits, form), reference)


def _open(model: ir.Model, folder: Path, file: Path | None, *, optimise: bool = True) -> ReferenceSession:
    """Open a model beside its weights, or the user's own file where there is one."""
    if file is not None:
        return ReferenceSession(file, what=f"'{file}'")
    path = folder / "whole.onnx"
    try:
        save_graph(model, path)
        return ReferenceSession(path, what="the exported graph", optimise=optimise)
    finally:
        path.unlink(missing_ok=True)


def _answer_original(
    exported: ExportedModel, session: ReferenceSession, task: Task | None
) -> tuple[ExitForm, Inputs, Logits]:
    check_finite(exported.samples, where="samples")
    form = form_of(session, exported.samples, exported.exits, task=task)
    samples = {name: array[: form.samples] for name, array in exported.samples.items()}
    answers = answer(session, samples, exported.exits, form)
    half, quantised = is_half(exported.model), is_quantised(exported.model)
    if exported.module is not None:
        few = {name: array[:_TORCH_SAMPLES] for name, array in samples.items()}
        check_against_torch(answers, run_module(exported.module, few), half=half)
    check_independence(session, samples, answers, half=half, quantised=quantised)
    return form, samples, answers


def _calibration(arrays: Inputs, exported: ExportedModel, form: ExitForm, answers: Logits) -> Dataset:
    classes = answers[exported.exits[0]].shape[1]
    data = as_dataset(arrays, exported.inputs, task=form.task, classes=classes, where="calibration data")
    check_finite(data.inputs, where="calibration data")
    size = answers[exported.exits[0]].shape[2:]
    if data.labels is not None and data.labels.shape[1:] != size:
        maps = ("x".join(map(str, shape)) for shape in (data.labels.shape[1:], size))
        raise DataError("calibration data: 'labels' are maps of {} where the exits' are {}; resize them".format(*maps))
    return data


def _first(data: Dataset, count: int) -> Dataset:
    """Return as much of the calibration data as there is room for the answers of; ranges take all of it."""
    return Dataset(
        inputs={name: array[:count] for name, array in data.inputs.items()},
        labels=None if data.labels is None else data.labels[:count],
    )
