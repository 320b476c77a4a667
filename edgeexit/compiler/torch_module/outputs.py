"""Flattens what a torch module returns into named outputs, and checks those that are to be exits."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch

from edgeexit.compiler.exits.companions import Companions, assign_companions, choose_companions
from edgeexit.compiler.exits.names import MIN_EXITS, listed, match_exits
from edgeexit.errors import CompileError

_ONE_CLASS_AXIS: Final = 2  # the rank of logits [batch, classes]


class OutputStep(NamedTuple):
    """One step from a container to a value in it."""

    key: Any
    """Index, key of a mapping, or name of an attribute."""
    is_attribute: bool = False


class Output(NamedTuple):
    """A value that forward returns, and the steps to it from the return value."""

    steps: tuple[OutputStep, ...]
    value: Any


def flatten_outputs(returned: object) -> dict[str, Output]:
    """Return name -> value for the return value of forward, in its order, without None.

    The values of a flat tuple or list are exit0, exit1, ...; a single value is exit0. Any other name is the path to the
    value: keys of mappings, fields of dataclasses and named tuples, and indices, joined with dots: `logits`, `0.1`,
    `aux.0`. Values of other types (numbers, texts, objects) are not opened.

    Raises CompileError if two values have the same path.
    """
    parts = _parts(returned)
    if parts is None:
        return {} if returned is None else {"exit0": Output((), returned)}
    is_flat = isinstance(returned, tuple | list) and not _fields(returned)
    if is_flat and not any(_leaves(value, (), ()) for _, _, value in parts if _parts(value) is not None):
        leaves = [
            (f"exit{step.key}", Output((step,), value))
            for _, step, value in parts
            if value is not None and _parts(value) is None
        ]
    else:
        leaves = [(".".join(names), output) for names, output in _leaves(returned, (), ())]
    outputs: dict[str, Output] = {}
    for name, output in leaves:
        if name in outputs:
            raise CompileError(f"forward returns two values at '{name}'; rename one of the keys")
        outputs[name] = output
    return outputs


def pick_output(returned: Any, steps: Sequence[OutputStep]) -> Any:
    """Return the value to which the steps lead."""
    value = returned
    for key, is_attribute in steps:
        value = getattr(value, key) if is_attribute else value[key]
    return value


def as_container(returned: Any) -> Any:
    """Return the values of an iterator (forward is a generator function) as a tuple, and any other value unchanged."""
    return tuple(returned) if isinstance(returned, Iterator) else returned


def choose_outputs(
    outputs: Mapping[str, Output], patterns: Sequence[str], companions: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], Companions]:
    """Return the names of the exits, and their companions.

    The exits are the outputs that the patterns select, or else all tensors that are no companions. `companions` is
    companion name -> names or patterns of its outputs, in the order of the exits.

    Raises CompileError for an unknown name, for fewer than two exits, for a selected value that is not a tensor, for
    companions that do not fit the exits and, without patterns, if the tensors cannot be exits of one model.
    """
    values = {name: output.value for name, output in outputs.items()}
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    for name, value in values.items():
        if any(name in selected for selected in companions.values()) and name not in tensors:
            raise CompileError(f"companion '{name}' is {_text(value)}; a companion must be a tensor")
    matched, others = choose_companions(companions, tuple(tensors), exits=patterns)
    for name in dict.fromkeys(name for selected in matched.values() for name in selected):
        if tensors[name].dtype == torch.bfloat16 or tensors[name].is_complex():
            raise CompileError(
                f"companion '{name}' is {_text(tensors[name])}; return real numbers of a type of numpy, e.g. float32"
            )
    if not patterns:
        _check_all({name: tensors[name] for name in others}, values)
        return others, assign_companions(matched, others)
    for name in patterns:
        if name in values and name not in tensors:
            raise CompileError(f"exit '{name}' is {_text(values[name])}; an exit must be a tensor of logits")
    names = match_exits(patterns, others)
    return names, assign_companions(matched, names)


def _check_all(tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Raise CompileError, which lists all outputs, if the tensors cannot be exits of one model."""
    if not tensors:
        found = listed([f"'{name}' {_text(value)}" for name, value in values.items()]) or "None"
        raise CompileError(
            f"forward returns {found}, which has no tensors; return the logits of the exits in a tuple, list or dict"
        )
    if len(tensors) < MIN_EXITS:
        ((name, value),) = tensors.items()
        advice = "return all exits in evaluation mode, too"
        if value.ndim > _ONE_CLASS_AXIS:
            advice = "if it holds all exits, return them one by one, as in unbind(1) for [batch, exits, classes]"
        raise CompileError(
            "the model has 1 exit; an early-exit model returns at least 2, shallow to deep; forward returns "
            f"'{name}' {_text(value)}; {advice}"
        )
    forms = {_form(value) for value in tensors.values()}
    if len(forms) > 1 or None in forms:
        found = listed([f"'{name}' {_text(value)}" for name, value in tensors.items()])
        advice = "select the exits with --exits NAME,NAME,... (or a pattern, as in '0.*')"
        if sum(_form(value) is not None for value in tensors.values()) < MIN_EXITS:
            advice = "return the logits, floating-point numbers of shape [batch, classes], one tensor per exit"
        raise CompileError(f"the outputs of forward cannot all be exits of one model: {found}; {advice}")


def _form(value: torch.Tensor) -> tuple[int | str, ...] | None:
    """Return the rank and the number of classes of logits, which all exits share; None for what is not logits.

    Trailing dimensions of size 1 do not count: [B, C, 1, 1] has the form of [B, C].
    """
    if not value.is_floating_point() or value.ndim == 0:
        return None
    shape = _sizes(value)
    while len(shape) > _ONE_CLASS_AXIS and shape[-1] == 1:
        shape = shape[:-1]
    return (len(shape), *shape[1:2])


def _leaves(value: Any, names: tuple[str, ...], steps: tuple[OutputStep, ...]) -> list[tuple[tuple[str, ...], Output]]:
    """Return the values in a container, each with the names on the path to it; none for None."""
    parts = _parts(value)
    if parts is None:
        return [] if value is None else [(names, Output(steps, value))]
    return [leaf for name, step, part in parts for leaf in _leaves(part, (*names, name), (*steps, step))]


def _parts(value: Any) -> list[tuple[str, OutputStep, Any]] | None:
    """Return name, step and value of each part of a container, or None for a value of another type."""
    if isinstance(value, torch.Size):
        return None
    if isinstance(value, Mapping):  # also a ModelOutput of Hugging Face
        return [(str(key), OutputStep(key), part) for key, part in value.items()]
    if isinstance(value, tuple | list):
        names = _fields(value) or tuple(str(index) for index in range(len(value)))
        return [(name, OutputStep(index), part) for index, (name, part) in enumerate(zip(names, value, strict=True))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return [(name, OutputStep(name, is_attribute=True), getattr(value, name, None)) for name in fields]
    return None


def _fields(value: tuple[Any, ...] | list[Any]) -> tuple[str, ...]:
    """Return the field names of a named tuple, none for a plain tuple or list."""
    return tuple(getattr(value, "_fields", ()))


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{'x'.join(map(str, _sizes(value))) or 'a scalar'} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _sizes(value: torch.Tensor) -> tuple[int | str, ...]:
    """Return the shape, with the names of the symbolic sizes that a fake tensor has."""
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape)
