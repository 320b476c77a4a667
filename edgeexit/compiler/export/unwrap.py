"""Removes the wrappers of training and of torch.compile from a torch module."""
# ruff: noqa: SLF001 - torch has no public names for the parts of a compiled module

from typing import Final

import torch
from torch._dynamo import OptimizedModule
from torch.optim.swa_utils import AveragedModel

_WRAPPERS: Final = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, AveragedModel)
"""Modules whose forward only calls that of their attribute `module`."""


def unwrap_module(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel, AveragedModel and torch.compile, in any order."""
    while True:
        if isinstance(module, OptimizedModule):
            module = module._orig_mod
        elif isinstance(module, _WRAPPERS):
            module = module.module
        else:
            return module


def class_name_of(module: torch.nn.Module) -> str:
    """Return the name of the module's class; of a ScriptModule, the name of the class that was traced or scripted."""
    return str(getattr(module, "original_name", type(module).__name__))
