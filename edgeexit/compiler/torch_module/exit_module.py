"""Wraps a torch module: it takes its inputs by position, and returns only its exits and companions as a flat tuple."""

import ast
import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.error_text import place_in_user_code, reason_of
from edgeexit.compiler.exits.companions import Companions
from edgeexit.compiler.graph import all_values
from edgeexit.compiler.normalise import SCOPES
from edgeexit.compiler.samples import DEFAULT_DIMENSION_SIZE, Arrays, repeat_to
from edgeexit.compiler.torch_module.arguments import InputIndex, arguments_of, parameters_of
from edgeexit.compiler.torch_module.evaluation import in_eval_mode
from edgeexit.compiler.torch_module.outputs import (
    OutputStep,
    as_container,
    choose_outputs,
    flatten_outputs,
    pick_output,
)
from edgeexit.compiler.torch_module.program_module import ProgramModule
from edgeexit.compiler.torch_module.program_sizes import BatchSizes
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress

_TORCH: Final = Path(torch.__file__).parent
_PROBE_BATCH: Final = 2
_ATTRIBUTE: Final = "model"
"""The attribute of `ExitModule` with the user's module; exporters put it before the names of weights and nodes."""
_CLOSURE: Final = "forward.__closure__[0].cell_contents."
"""torch.export in strict mode puts this before the names of modules, because `ExitModule.forward` is a closure."""


class ExitModule(torch.nn.Module):
    """A torch module that takes its inputs by position and returns its exits as a flat tuple of tensors.

    torch.export and TorchScript trace it. Other values that the wrapped forward returns never reach the tracer.

    Args:
        model: the user's module; the attribute `model`.
        inputs: the inputs, in the order of `order_inputs`; the attribute `inputs`.
        exits: names of the exits, as `flatten_outputs` names them; the attribute `exits`.
        companions: companions of the exits; the attribute `companions`. The attribute `outputs` has the names of the
            exits, then those of the companions' outputs.
        use_args: pass the inputs that are not parameters of forward to its `*args`, not to its `**kwargs`.

    """

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Sequence[TensorSpec],
        exits: Sequence[str],
        companions: Companions = (),
        *,
        use_args: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.exits = tuple(exits)
        self.companions = companions
        self.outputs = (*self.exits, *(companion.output for companion in companions))
        self._arguments = arguments_of(model, [spec.name for spec in inputs], use_args=use_args)
        self._steps: list[tuple[OutputStep, ...]] | None = None
        self.forward = self._forward_with_names()  # the exporters name inputs after the parameters of forward

    def call_model(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Call the wrapped module and return what it returns; an iterator as a tuple."""
        positional, named = self._arguments
        arguments = [tensors[each] if isinstance(each, InputIndex) else each for each in positional]
        return as_container(self.model(*arguments, **{name: tensors[index] for name, index in named.items()}))

    def _forward_with_names(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            returned = self.call_model(tensors)
            if self._steps is None:
                found = flatten_outputs(returned)
                self._steps = [found[name].steps for name in self.outputs]
            return tuple([pick_output(returned, steps) for steps in self._steps])

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in _python_names([spec.name for spec in self.inputs])]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward


def wrap_module(
    model: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    samples: Inputs,
    exits: Sequence[str] = (),
    companions: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    progress: Progress = NO_PROGRESS,
) -> ExitModule:
    """Run a module on two samples, choose its exits, and return it as an `ExitModule`.

    Args:
        model: the user's module.
        inputs: its inputs, in the order of `order_inputs`.
        samples: input name -> [N, ...].
        exits: names of the exits, or patterns; default: all tensors that forward returns and that are no companions.
        companions: companion name -> names or patterns of its outputs, in the order of the exits.
        progress: receives a warning if inputs are passed to `*args`, in the order in which they are given.

    Raises CompileError if forward fails, or if its outputs cannot be exits.

    """
    few = repeat_to(samples, _PROBE_BATCH)
    parameters = parameters_of(model)
    probe = ExitModule(model, inputs, (), use_args=not parameters.takes_kwargs)
    use_args = not parameters.takes_kwargs
    try:
        returned = _run(probe, few)
    except CompileError as error:
        if use_args or not parameters.takes_args or not isinstance(error.__cause__, TypeError):
            raise
        use_args = True
        returned = _run(ExitModule(model, inputs, ()), few)
    others = [f"'{spec.name}'" for spec in inputs if spec.name not in parameters.defaults]
    if use_args and len(others) > 1:
        progress.warning(f"forward takes *args: the inputs {', '.join(others)} are passed in this order")
    chosen, assigned = choose_outputs(flatten_outputs(returned), exits, companions)
    return ExitModule(model, inputs, chosen, assigned, use_args=use_args)


def run_module(module: ExitModule, samples: Inputs) -> Arrays:
    """Run a module in evaluation mode and return exit name -> what the exit returns, [N, ...]; floats as float32.

    A program with a bounded batch runs in parts, and a part that is too small is filled up with repeated samples.

    Raises CompileError if forward fails.
    """
    sizes = module.model.batch_sizes if isinstance(module.model, ProgramModule) else BatchSizes()
    parts: list[list[torch.Tensor]] = []
    for first, last, size in sizes.parts(len(next(iter(samples.values())))):
        part = repeat_to({name: array[first:last] for name, array in samples.items()}, size)
        parts.append(
            [value[: last - first] if size > last - first else value for value in _run(module, part, chosen=True)]
        )
    values = [torch.cat(each) if len(each) > 1 else each[0] for each in zip(*parts, strict=True)]
    return {
        name: (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
        for name, value in zip(module.outputs, values, strict=True)
    }


def tensors_of(module: ExitModule, samples: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a module as tensors on the device of its first parameter, in the module's order."""
    first = next(module.parameters(), None)
    device = None if first is None else first.device
    return tuple(torch.from_numpy(np.ascontiguousarray(samples[spec.name])).to(device) for spec in module.inputs)


def remove_prefix(model: ir.Model) -> None:
    """Remove in place what `ExitModule` adds to the names of weights, nodes and scopes in an exported graph."""
    for value in all_values(model.graph):
        if value.name is not None:
            value.name = without_prefix(value.name)
    for graph in model.graphs():
        for node in graph:
            if node.name is not None:
                node.name = without_prefix(node.name)
            if SCOPES in node.metadata_props:
                *modules, name = ast.literal_eval(node.metadata_props[SCOPES])
                modules = [module.removeprefix(_CLOSURE) for module in modules]
                modules = ["" if module == _ATTRIBUTE else without_prefix(module) for module in modules]
                node.metadata_props[SCOPES] = repr([*modules, name])


def without_prefix(name: str) -> str:
    """Remove `model.`, or the `/model/` of the TorchScript exporter."""
    script = f"/{_ATTRIBUTE}/"
    return f"/{name.removeprefix(script)}" if name.startswith(script) else name.removeprefix(f"{_ATTRIBUTE}.")


def _python_names(names: Sequence[str]) -> list[str]:
    """Return the names, with those replaced that a parameter cannot have."""
    are_valid = all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    return list(names) if are_valid else [f"input_{index}" for index in range(len(names))]


def _run(module: ExitModule, samples: Inputs, *, chosen: bool = False) -> Any:
    """Run a module; return its exits if `chosen`, else all that the wrapped module returns."""
    tensors = tensors_of(module, samples)
    with in_eval_mode(module), torch.no_grad():
        try:
            return module(*tensors) if chosen else module.call_model(tensors)
        except Exception as error:  # the user's forward may raise anything
            shapes = ", ".join(
                f"'{name}' {'x'.join(map(str, array.shape))} {array.dtype}" for name, array in samples.items()
            )
            place = place_in_user_code(error, library=_TORCH)
            where = "" if place is None else f" at {place}"
            raise CompileError(
                f"forward fails{where} on {shapes}: {reason_of(error)}; check --input or --example (the first "
                f"dimension is the batch; without --example, symbolic dimensions have size {DEFAULT_DIMENSION_SIZE})"
            ) from error
