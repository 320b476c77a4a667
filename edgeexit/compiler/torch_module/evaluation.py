"""Calls a torch module as the compiler needs it: in evaluation mode, on one device and without torch.compile."""
# ruff: noqa: SLF001 - torch has no public names for the parts of a compiled module

import contextlib
from collections.abc import Iterator

import torch
from torch.distributions import Distribution

from edgeexit.compiler.torch_module.unwrap import compiled_module_in


def is_training(module: torch.nn.Module) -> bool:
    """Return True if the module or a submodule is in training mode; never for the module of an exported program."""
    return not hasattr(module, "_in_spec") and any(getattr(each, "training", False) for each in module.modules())


@contextlib.contextmanager
def in_eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and call submodules directly that torch.compile or DataParallel wraps.

    Distributions do not check their arguments, because the check is a branch on data. The state of each submodule is
    restored at the end.
    """
    modes = {each: each.training for each in module.modules() if hasattr(each, "training")}  # not in a frozen module
    for each in modes:
        each.training = False  # not eval(), which an exported program's module does not support
    try:
        with _without_compilation(module), _on_one_device(module), _without_argument_checks():
            yield
    finally:
        for each, training in modes.items():
            each.training = training


@contextlib.contextmanager
def _without_argument_checks() -> Iterator[None]:
    """Let torch.distributions accept any arguments while the block runs."""
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checks)


@contextlib.contextmanager
def without_fused_transformers() -> Iterator[None]:
    """Compute torch's Transformer layers with the usual operators while the block runs."""
    fuses = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fuses)


@contextlib.contextmanager
def _on_one_device(module: torch.nn.Module) -> Iterator[None]:
    """Do not copy submodules to all GPUs while the block runs."""
    devices = {each: each.device_ids for each in module.modules() if isinstance(each, torch.nn.DataParallel)}
    for each in devices:
        each.device_ids = []
    try:
        yield
    finally:
        for each, device_ids in devices.items():
            each.device_ids = device_ids


@contextlib.contextmanager
def _without_compilation(module: torch.nn.Module) -> Iterator[None]:
    """Call submodules without torch.compile, which TorchScript cannot trace, while the block runs."""
    compiled = {each: each._compiled_call_impl for each in module.modules() if _is_compiled_in_place(each)}
    wrappers = {each: each.forward for each in module.modules() if compiled_module_in(each) is not None}
    for each in compiled:
        each._compiled_call_impl = None
    for wrapper in wrappers:
        wrapper.forward = wrapper._orig_mod.__call__  # type: ignore[operator]
    try:
        yield
    finally:
        for each, call in compiled.items():
            each._compiled_call_impl = call
        for wrapper, forward in wrappers.items():
            wrapper.forward = forward


def _is_compiled_in_place(module: torch.nn.Module) -> bool:
    """Return True if `module.compile()` was called."""
    is_wrapper = isinstance(module, torch.jit.ScriptModule) or compiled_module_in(module) is not None
    return not is_wrapper and module._compiled_call_impl is not None
