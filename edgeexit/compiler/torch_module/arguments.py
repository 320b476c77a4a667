"""Finds out which inputs the forward of a torch module takes, and how to pass them."""

import inspect
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_MISSING: Final = inspect.Parameter.empty


class ForwardParameters(NamedTuple):
    """The parameters of a module's forward."""

    defaults: dict[str, Any]
    """Name -> default, in order; `inspect.Parameter.empty` for a required parameter."""
    positional_only: tuple[str, ...] = ()
    keyword_only: tuple[str, ...] = ()
    takes_args: bool = False
    """Forward has `*args`, so it takes inputs of any name, in the given order."""
    takes_kwargs: bool = False
    """Forward has `**kwargs`, so it takes inputs of any name."""

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the parameters without a default."""
        return tuple(name for name, default in self.defaults.items() if default is _MISSING)

    @property
    def is_open(self) -> bool:
        """Forward takes inputs of any name."""
        return self.takes_args or self.takes_kwargs


class ForwardArguments(NamedTuple):
    """How to pass the inputs, which are given in a fixed order."""

    positional: tuple[Any, ...]
    """Each an `InputIndex`, or the default of a positional-only parameter that is not an input."""
    named: dict[str, int]
    """Parameter -> index of the input."""


class InputIndex(int):
    """The index of an input."""


def parameters_of(module: torch.nn.Module) -> ForwardParameters:
    """Return the parameters of the module's forward."""
    if isinstance(module, torch.jit.ScriptModule):
        return _script_parameters(module)
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = {p.kind for p in parameters}
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    in_spec = getattr(module, "_in_spec", None)  # of the module of an exported program, which takes no other call
    positional = 0 if in_spec is None else in_spec.child(0).num_children
    return ForwardParameters(
        {p.name: p.default for p in named},
        tuple(p.name for index, p in enumerate(named) if p.kind == p.POSITIONAL_ONLY or index < positional),
        tuple(p.name for p in named if p.kind == p.KEYWORD_ONLY),
        takes_args=inspect.Parameter.VAR_POSITIONAL in kinds,
        takes_kwargs=inspect.Parameter.VAR_KEYWORD in kinds,
    )


def input_names(module: torch.nn.Module, example: Inputs) -> tuple[str, ...]:
    """Return the names of the arrays of an example that are inputs; `labels` may be among them.

    If a required parameter is not in the example, all arrays are returned, so that the error can name them.
    """
    parameters = parameters_of(module)
    if parameters.is_open or any(name not in example for name in parameters.required):
        return tuple(example)
    return tuple(name for name in parameters.defaults if name in example)


def order_inputs(module: torch.nn.Module, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the inputs in the order of forward's parameters, and then those that `*args` or `**kwargs` takes.

    Raises CompileError for an input that is no parameter, or for a required parameter that is no input.
    """
    parameters = parameters_of(module)
    given = {spec.name: spec for spec in specs}
    takes = ", ".join(f"'{name}'" for name in parameters.defaults) or "no parameters"
    missing = [name for name in parameters.required if name not in given]
    unknown = [] if parameters.is_open else [name for name in given if name not in parameters.defaults]
    if missing and unknown:
        raise CompileError(
            f"forward needs '{missing[0]}', but the input is named '{unknown[0]}'; forward takes {takes}: "
            f"rename the input to '{missing[0]}'"
        )
    if unknown:
        raise CompileError(f"forward has no parameter '{unknown[0]}'; it takes {takes}")
    if missing:
        raise CompileError(f"forward needs '{missing[0]}', which is not among the inputs; forward takes {takes}")
    if not given:
        raise CompileError("forward needs at least one input; give it with --input or --example")
    others = [spec for name, spec in given.items() if name not in parameters.defaults]
    return (*(given[name] for name in parameters.defaults if name in given), *others)


def arguments_of(module: torch.nn.Module, names: Sequence[str], *, use_args: bool = True) -> ForwardArguments:
    """Return how to pass inputs with these names, which are in the order of `order_inputs`.

    Inputs that are no parameters are passed to `*args` if forward has it and `use_args` is True, else by keyword.
    """
    parameters = parameters_of(module)
    index = {name: InputIndex(position) for position, name in enumerate(names)}
    declared = tuple(parameters.defaults)
    others = [name for name in names if name not in declared]
    leading = parameters.positional_only
    if others and parameters.takes_args and (use_args or not parameters.takes_kwargs):
        leading = (*(name for name in declared if name not in parameters.keyword_only), *others)
    while leading and leading[-1] not in index:
        leading = leading[:-1]
    positional = tuple(index[name] if name in index else parameters.defaults[name] for name in leading)
    return ForwardArguments(positional, {name: int(index[name]) for name in names if name not in leading})


def _script_parameters(module: torch.jit.ScriptModule) -> ForwardParameters:
    """Return the parameters in the schema of a ScriptModule's forward; it has neither `*args` nor `**kwargs`."""
    method: Any = module.forward
    arguments = method.schema.arguments[1:]  # the first is self
    return ForwardParameters(
        {each.name: each.default_value if each.has_default_value() else _MISSING for each in arguments}
    )
