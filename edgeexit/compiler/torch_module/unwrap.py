"""Removes the wrappers of training and of torch.compile from a torch module."""
# ruff: noqa: SLF001 - torch has no public names for the parts of a compiled module

from typing import Final

import torch
from torch.optim.swa_utils import AveragedModel

_WRAPPERS: Final = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, AveragedModel)
"""Modules whose forward only calls that of their attribute `module`."""


def unwrap_module(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel, AveragedModel and torch.compile, in any order."""
    while True:
        compiled = compiled_module_in(module)
        if compiled is not None:
            module = compiled
        elif isinstance(module, _WRAPPERS):
            module = module.module
        else:
            return module


def compiled_module_in(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return the module inside what torch.compile returns, None for another module.

    The wrapper's class is not imported, because its package takes seconds to load.
    """
    return module._modules.get("_orig_mod") if type(module).__name__ == "OptimizedModule" else None


def class_name_of(module: torch.nn.Module) -> str:
    """Return the name of the module's class; of a ScriptModule, the name of the class that was traced or scripted."""
    return str(getattr(module, "original_name", type(module).__name__))
