"""Checks the options of a compilation before the model is loaded and exported, which may take minutes."""

from collections.abc import Iterator, Sequence
from typing import Final, get_args

import torch

from edgeexit.bundle.manifest import Precision, Task, TensorSpec
from edgeexit.compiler.build_config import check_buildable, check_dimension_names
from edgeexit.compiler.exits.companions import check_companion_names
from edgeexit.compiler.export.mask_inputs import check_masks
from edgeexit.compiler.inputs import parse_inputs, specs_of
from edgeexit.compiler.loading.source import Loaded, OnnxFile
from edgeexit.compiler.options import CompileOptions, Exporter
from edgeexit.compiler.precision.reduce import check_precision
from edgeexit.compiler.torch_module.arguments import input_names, order_inputs
from edgeexit.datasets import LABELS, Dataset, Inputs, as_dataset, check_finite, check_inputs
from edgeexit.datasets.unread import unread_warning
from edgeexit.errors import CompileError, DataError
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.targets import Target

_SAMPLES: Final = "--example samples"
_CALIBRATION: Final = "--calibration data"
_LISTS: Final = ("inputs", "exits", "masks", "keep_fp32", "class_names")


def check_options(
    options: CompileOptions, device: Target, *, progress: Progress = NO_PROGRESS
) -> tuple[TensorSpec, ...]:
    """Check everything that needs no model; return the inputs that the user described.

    Args:
        options: the options of the compilation.
        device: the target.
        progress: receives the warnings of `parse_inputs`.

    Raises CompileError for a value that an option cannot have and for options that contradict each other, EngineError
    for a size range that is not increasing, DataError for samples and class names that cannot be right.

    """
    for name in _LISTS:
        if isinstance(value := getattr(options, name), str):
            raise CompileError(f"the option {name} is '{value}'; give a list of texts")
    _require_known("precision", options.precision, get_args(Precision))
    _require_known("task", options.task, get_args(Task))
    _require_known("exporter", options.exporter, get_args(Exporter))
    if not 0 <= options.max_loss <= 1:
        raise CompileError(f"the max loss is {options.max_loss:g}; it is a fraction of the samples, from 0 to 1")
    check_companion_names(options.companions)
    has_samples = options.calibration is not None or options.example is not None
    check_precision(options.precision, options.keep_fp32, has_samples=has_samples)
    for index, name in enumerate(options.class_names or ()):
        if not name:
            raise DataError(f"class name {index} is empty; give one name per class")
    check_buildable(device, options.dimensions)
    specs = parse_inputs(options.inputs, progress=progress)
    _check_samples(options, specs)
    return specs


def check_for_model(options: CompileOptions, specs: Sequence[TensorSpec], loaded: Loaded) -> None:
    """Check what needs the names of the model's inputs; a torch module is not run and not exported.

    Raises CompileError for an exporter if the model is a graph already, for a range of a dimension that no input has
    and for a mask that is no input, DataError for samples that do not match the inputs or are not finite.
    """
    example = arrays_of(options.example) or arrays_of(options.calibration)
    if isinstance(loaded, torch.nn.Module):
        if specs or example:
            found = order_inputs(loaded, specs or specs_of(example or {}, input_names(loaded, example or {})))
            check_dimension_names(found, options.dimensions)
            check_masks(found, options.masks)
            _check_samples(options, () if specs else found)  # `check_options` checked them if there are `specs`
        return
    if options.exporter != "auto":
        raise CompileError(f"the exporter '{options.exporter}' traces torch modules, but the model is a graph already")
    if isinstance(loaded, OnnxFile):
        names = [str(value.name) for value in loaded.model.graph.inputs]
    else:
        names = [str(name) for name in loaded.graph_signature.user_inputs]
    for where, arrays in _given(options):
        check_finite({name: arrays[name] for name in names if name in arrays}, where=where, masks=options.masks)


def warn_of_unread(options: CompileOptions, specs: Sequence[TensorSpec], progress: Progress) -> None:
    """Report the arrays of the user's samples that are neither an input nor labels.

    In reduced precision, those of the calibration data are reported when its labels are read.
    """
    names = [spec.name for spec in specs]
    given = list(_given(options))
    for where, arrays in given if options.precision == "fp32" else given[:-1]:
        unread = {name: array for name, array in arrays.items() if name not in names and name != LABELS}
        warning = unread_warning(unread, where=where, label_name=None, rank=1, samples=0, inputs=names)
        if warning is not None:
            progress.warning(warning)


def arrays_of(data: Inputs | Dataset | None) -> Inputs | None:
    """Return the arrays by name, with the labels of a data set as the array `labels`."""
    if not isinstance(data, Dataset):
        return data
    return data.inputs if data.labels is None else {**data.inputs, LABELS: data.labels}


def _given(options: CompileOptions) -> Iterator[tuple[str, Inputs]]:
    """Yield the name in error messages and the arrays of the samples that the user gave."""
    for where, data in ((_SAMPLES, options.example), (_CALIBRATION, options.calibration)):
        if (arrays := arrays_of(data)) is not None:
            yield where, arrays


def _check_samples(options: CompileOptions, specs: Sequence[TensorSpec]) -> None:
    """Raise DataError for arrays that do not match the specifications or are not finite, and for labels of no task."""
    if not specs:
        return
    for where, arrays in _given(options):
        check_finite(check_inputs(arrays, specs, where=where), where=where, masks=options.masks)
    if options.precision == "fp32":
        return
    for where, arrays in list(_given(options))[-1:]:  # only the labels of the calibration data are used, if it is given
        labels = arrays.get(LABELS)
        if labels is not None and (options.task is not None or labels.ndim == 1):
            task = options.task or "classification"
            as_dataset(arrays, specs, task=task, ignore_labels=options.ignore_labels, where=where)


def _require_known(what: str, value: str | None, known: Sequence[str]) -> None:
    """Raise CompileError for a value that is neither None nor one of `known`."""
    if value is not None and value not in known:
        raise CompileError(f"{what} '{value}' is not one of {', '.join(known)}")
