"""Converts the forms in which models return exits (one logit, [B, C, 1, 1], [B, T, C], half) to the standard logits."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.bundle.manifest import Task
from edgeexit.compiler.graph import add_initializer, infer_shapes, names_in, unique_name
from edgeexit.errors import CompileError

_SHAPES: Final[Mapping[Task, str]] = {
    "classification": "[batch, classes], or [batch] or [batch, 1] for one logit",
    "segmentation": "[batch, classes, height, width]",
    "tagging": "[batch, tokens, classes], or [batch, tokens] for one logit per token",
}
_MAP_RANK: Final = 4
_FLOATS: Final = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


class ExitForm(NamedTuple):
    """How an exit becomes logits [B, C], or maps [B, C, H, W]. The steps are applied in the order of the fields."""

    squeeze: tuple[int, ...] = ()
    """Axes of size 1 that are removed."""
    transpose: tuple[int, ...] = ()
    """Permutation of the axes; empty: none."""
    unsqueeze: tuple[int, ...] = ()
    """Axes of size 1 that are inserted."""
    binary: bool = False
    """Axis 1 has one logit z; it becomes the two logits [0, z], because softmax([0, z])[1] = sigmoid(z)."""


STANDARD: Final = ExitForm()
"""The exit returns standard logits: nothing is changed."""


class ExitForms(NamedTuple):
    """The task of a model and the form of each exit."""

    task: Task
    forms: Mapping[str, ExitForm]
    """Exit name -> form."""
    warnings: tuple[str, ...]
    """One line for each conversion that the user may not expect."""


def find_forms(outputs: Mapping[str, npt.NDArray[Any]], *, task: Task | None, unsure: Sequence[str] = ()) -> ExitForms:
    """Return the task of the exits and how each becomes standard logits.

    Args:
        outputs: exit name -> what it returns for one sample.
        task: the task that the user gave; None: the shapes of the exits decide.
        unsure: exits [B, C, 1, 1] whose maps may be larger for other sizes of the inputs.

    Raises CompileError, which names the exit, its shape and what to do, for a shape that is not of the task, or that
    may be of several tasks.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != 1 or not array.size:
            raise CompileError(_wrong_shape(name, array, task or _likely_task(outputs)))
    found = task or _task_of(outputs, unsure)
    forms = {name: _form(name, array, found) for name, array in outputs.items()}
    warnings = []
    heads = [name for name, form in forms.items() if form.squeeze]
    if heads and task is None:
        is_map = all(outputs[name].ndim == _MAP_RANK for name in heads)
        keep = "; give --task segmentation to keep maps" if is_map else ""
        warnings.append(
            f"{_listed(heads, outputs)}: compiled for classification, without the dimensions of size 1{keep}"
        )
    if all(to_logits(array, forms[name]).shape[1] == 1 for name, array in outputs.items()):
        forms = {name: form._replace(binary=True) for name, form in forms.items()}
        per = {"classification": "sample", "segmentation": "pixel", "tagging": "token"}[found]
        warnings.append(
            f"the exits return one logit z per {per}, which is compiled as two classes with the logits [0, z]: class 1 "
            "is the positive class, with the probability sigmoid(z)"
        )
    return ExitForms(found, forms, tuple(warnings))


def to_logits(output: npt.NDArray[Any], form: ExitForm) -> npt.NDArray[np.float32]:
    """Return what an exit returned as standard logits, float32: [B, C], or [B, C, H, W] for maps."""
    logits: npt.NDArray[np.float32] = output.astype(np.float32, copy=False)
    if form.squeeze:
        logits = logits.squeeze(form.squeeze)
    if form.transpose:
        logits = np.ascontiguousarray(logits.transpose(form.transpose))
    if form.unsqueeze:
        logits = np.expand_dims(logits, form.unsqueeze)
    if form.binary:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits


def convert_exits(model: ir.Model, forms: Mapping[str, ExitForm]) -> None:
    """Append the nodes to a normalised model that convert each exit to standard logits; the exits keep their names."""
    if all(form == STANDARD for form in forms.values()):
        return
    graph = model.graph
    taken = names_in(graph)
    for index, value in enumerate(graph.outputs):
        form = forms.get(str(value.name), STANDARD)
        if form == STANDARD:
            continue
        name = str(value.name)
        value.name = unique_name(f"{name}.value", taken)
        converted = _append(graph, value, form, prefix=name, taken=taken)
        converted.name = name
        graph.outputs[index] = converted
    infer_shapes(model)


def check_classes(graph: ir.Graph, exits: Sequence[str], *, task: Task) -> None:
    """Raise CompileError for an exit of a converted graph whose number of classes is a symbolic dimension of an input.

    Logits [B, T] or [B, C, T] of tokens look like logits of T classes in a run on samples of one length.
    """
    sizes = {size.value for value in graph.inputs for size in list(value.shape or ())[1:] if not isinstance(size, int)}
    outputs = {str(value.name): value for value in graph.outputs}
    for name in exits:
        shape = outputs[name].shape
        size = None if shape is None else shape[1]
        if isinstance(size, ir.SymbolicDim) and size.value is not None and size.value in sizes:
            advice = {
                "classification": "for one logit per token, give --task tagging",
                "segmentation": "return maps [batch, classes, height, width]",
                "tagging": "return logits [batch, tokens, classes], e.g. with logits.transpose(1, 2)",
            }[task]
            raise CompileError(f"exit '{name}' has as many classes as the size '{size.value}' of an input; {advice}")


def cast_exits(model: ir.Model, exits: Sequence[str]) -> None:
    """Append a cast to float32 to each exit that is float16, bfloat16 or float64; the exits keep their names.

    Raises CompileError for an exit of another type, which cannot be logits.
    """
    graph = model.graph
    taken = names_in(graph)
    for index, value in enumerate(graph.outputs):
        name = str(value.name)
        if name not in exits or value.dtype in {None, ir.DataType.UNDEFINED, ir.DataType.FLOAT}:
            continue
        if value.dtype not in _FLOATS:
            raise CompileError(not_logits(name, str(value.dtype).lower()))
        value.name = unique_name(f"{name}.value", taken)
        node = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=unique_name(f"{name}.cast", taken))
        graph.append(node)
        cast = node.outputs[0]
        cast.name, cast.type, cast.shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
        graph.outputs[index] = cast


def not_logits(exit_name: str, dtype: str) -> str:
    """Return the error for an exit whose type is not a floating-point type."""
    return (
        f"exit '{exit_name}' is {dtype}, which is a prediction or a mask and not logits; return the float logits "
        "that it is computed from, or choose the other exits with --exits"
    )


def _task_of(outputs: Mapping[str, npt.NDArray[Any]], unsure: Sequence[str]) -> Task:
    """Return the task that the shapes of the exits decide. Raises CompileError if they do not."""
    likely = _likely_task(outputs)
    ranks = {name: array.ndim for name, array in outputs.items()}
    heads = [name for name, array in outputs.items() if _is_head(array)]
    rows = [name for name, rank in ranks.items() if rank in {1, 2}]
    if len(rows) + len(heads) < len(ranks) and len(set(ranks.values())) > 1:
        counts = ", ".join(f"'{name}' {rank}" for name, rank in ranks.items())
        units = any(array.ndim == 3 and 1 in array.shape[1:] for array in outputs.values())  # noqa: PLR2004 - [B, C, 1]
        advice = ", or give --task classification if a dimension of size 1 is always 1" if units else ""
        raise CompileError(
            f"the exits have different numbers of dimensions: {counts}; select exits with --exits{advice}"
        )
    if likely == "classification" and not rows and any(name in unsure for name in heads):
        raise CompileError(
            f"{_listed(heads, outputs)} for these samples: give --task classification if the dimensions of size 1 are "
            "always 1, or --task segmentation if the exits are maps"
        )
    if likely == "tagging":
        raise CompileError(
            f"{_listed(list(outputs), outputs)}: if they are logits [batch, tokens, classes], give --task tagging; if "
            "they are [batch, classes, tokens], return logits.transpose(1, 2) and give --task tagging; if they are "
            "maps [batch, height, width] of one logit, return logits.unsqueeze(1); if one dimension is always 1, give "
            "--task classification"
        )
    return likely


def _likely_task(outputs: Mapping[str, npt.NDArray[Any]]) -> Task:
    """Return the task that fits the exits best, for the choice without `--task` and for error messages."""
    if all(array.ndim == 3 for array in outputs.values()):  # noqa: PLR2004 - [B, T, C]
        return "tagging"
    if any(array.ndim == _MAP_RANK and not _is_head(array) for array in outputs.values()):
        return "segmentation"
    return "classification"


def _form(name: str, array: npt.NDArray[Any], task: Task) -> ExitForm:
    """Return the form of one exit. Raises CompileError for a shape that is not of the task."""
    form = None
    if task == "classification":
        form = _row_form(array.shape)
    elif task == "segmentation" and array.ndim == _MAP_RANK:
        form = STANDARD
    elif task == "tagging":
        form = {2: ExitForm(unsqueeze=(1, 2)), 3: ExitForm(transpose=(0, 2, 1), unsqueeze=(2,))}.get(array.ndim)
    if form is None:
        raise CompileError(_wrong_shape(name, array, task))
    return form


def _row_form(shape: tuple[int, ...]) -> ExitForm | None:
    """Return the form of an exit for classification, or None if it has more than one dimension besides the batch."""
    if len(shape) == 1:
        return ExitForm(unsqueeze=(1,))
    units = [axis for axis in range(1, len(shape)) if shape[axis] == 1]
    extra = len(shape) - 2
    if len(units) < extra:
        return None
    return ExitForm(squeeze=tuple(units[len(units) - extra :]))  # the last ones: [B, 1, 1, 1] keeps axis 1


def _is_head(array: npt.NDArray[Any]) -> bool:
    """Return True for [1, C, 1, 1], and for [1, C, 1, 1, 1] of a network for videos or volumes."""
    return array.ndim >= _MAP_RANK and set(array.shape[2:]) == {1}


def _wrong_shape(name: str, array: npt.NDArray[Any], task: Task) -> str:
    shape = "x".join(map(str, array.shape)) or "a scalar"
    advice = "" if task == "tagging" or array.ndim != 3 else "; for logits per token, give --task tagging"  # noqa: PLR2004
    return f"exit '{name}' is {shape} for a batch of 1; for {task}, an exit must be logits {_SHAPES[task]}{advice}"


def _listed(names: Sequence[str], outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the names and shapes of exits as the subject of a sentence, with its verb."""
    shapes = {name: f"[{', '.join(['batch', *map(str, outputs[name].shape[1:])])}]" for name in names}
    if len(set(shapes.values())) == 1 and len(names) > 1:
        quoted = ", ".join(f"'{name}'" for name in names)
        return f"exits {quoted} are {shapes[names[0]]}"
    return "; ".join(f"exit '{name}' is {shape}" for name, shape in shapes.items())


def _append(graph: ir.Graph, value: ir.Value, form: ExitForm, *, prefix: str, taken: set[str]) -> ir.Value:
    """Append the nodes of a form behind a value; return the last output."""

    def add(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes, name=unique_name(f"{prefix}.{op.lower()}", taken))
        node.outputs[0].name = unique_name(f"{prefix}.{op.lower()}_out", taken)
        graph.append(node)
        return node.outputs[0]

    def axes(numbers: Sequence[int]) -> ir.Value:
        unique = unique_name(f"{prefix}.axes", taken)
        return add_initializer(graph, ir.Tensor(np.array(numbers, dtype=np.int64), name=unique))

    if form.squeeze:
        value = add("Squeeze", value, axes(form.squeeze))
    if form.transpose:
        value = add("Transpose", value, perm=list(form.transpose))
    if form.unsqueeze:
        value = add("Unsqueeze", value, axes(form.unsqueeze))
    if form.binary:
        value = add("Concat", add("Sub", value, value), value, axis=1)
    return value
