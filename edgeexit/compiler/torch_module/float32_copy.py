"""Copies a torch module whose parameters are bfloat16, float16 or float64 to float32."""

import copy
from typing import Any

import torch
from torch.utils import _pytree


def foreign_parameter(module: torch.nn.Module) -> tuple[str, torch.dtype] | None:
    """Return the name and type of the first parameter of floats that is not float32, or None without one.

    Buffers count unless they are float64, because forward usually converts those: constants that come from numpy.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in tensors:
        counts = name in parameters or tensor.dtype != torch.float64
        if tensor.is_floating_point() and tensor.dtype != torch.float32 and counts:
            return name, tensor.dtype
    return None


def float32_copy(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return a copy of a module that computes in float32 and converts its inputs; None if it cannot be copied.

    The original is not changed.
    """
    try:
        copied = copy.deepcopy(module).float()
        copied.register_forward_pre_hook(_convert, with_kwargs=True)
    except Exception:  # noqa: BLE001 - a module may forbid copies in many ways
        return None
    return copied


def _convert(_: torch.nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    """Convert the inputs of floats to float32."""
    converted: tuple[Any, Any] = _pytree.tree_map_only(torch.Tensor, _to_float32, (positional, named))
    return converted


def _to_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
