"""Chooses the TensorRT library that builds plans and the GPU that it builds them for."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeexit.backends.tensorrt.cuda.gpu import Hardware, find_gpu
from edgeexit.backends.tensorrt.library import Library, installed_libraries
from edgeexit.errors import EngineError

_CAPABILITY: Final = re.compile(r"(?:SM_?)?(\d{1,2})\.?(\d)", re.IGNORECASE)


class Toolchain(NamedTuple):
    """A library that builds plans, and the GPU that it builds them for."""

    library: Library
    hardware: Hardware
    gpu_is_local: bool
    """Whether the GPU is in this machine, so that the plans can run here."""


def read_sm(text: str) -> str:
    """Return a compute capability as TensorRT names it, e.g. SM86, from `SM86`, `sm_86`, `8.6` or `86`.

    Raises EngineError for any other text.
    """
    match = _CAPABILITY.fullmatch(text.strip())
    if match is None:
        raise EngineError(f"--for '{text}' is not a compute capability; write it as SM86 or 8.6")
    return f"SM{match[1]}{match[2]}"


def choose_toolchain(sm: str | None, *, first: str = "tensorrt") -> Toolchain:
    """Return an installed library that builds for the GPU `sm`, by default the GPU of this machine.

    If several libraries can, the one named `first` is preferred. Raises EngineError if no installed library can.
    """
    libraries = installed_libraries(first)
    try:
        local_gpu = find_gpu()
    except EngineError as error:
        return match_toolchain(sm, libraries, None, why_no_gpu=str(error))
    return match_toolchain(sm, libraries, local_gpu)


def match_toolchain(
    sm: str | None, libraries: Sequence[Library], local_gpu: Hardware | None, *, why_no_gpu: str = ""
) -> Toolchain:
    """Choose one of these libraries, as `choose_toolchain` does, for `sm` or this machine's GPU (None: it has none)."""
    wanted = sm or (local_gpu.sm if local_gpu is not None else None)
    known = ", ".join(dict.fromkeys(name for library in libraries for name in library.ahead_of_time))
    advice = f"use --for with one of {known}" if known else "install edgeexit[tensorrt-rtx] to build for another GPU"
    if wanted is None:
        raise EngineError(
            f"no NVIDIA GPU to build for was found here: {why_no_gpu}; build on the device (required for a Jetson), or "
            f"{advice}"
        )
    if local_gpu is not None and wanted == local_gpu.sm:
        for library in libraries:
            if not library.ahead_of_time or wanted in library.ahead_of_time:
                return Toolchain(library, local_gpu, gpu_is_local=True)
    for library in libraries:
        if wanted in library.ahead_of_time:
            return Toolchain(library, Hardware(sm=wanted), gpu_is_local=False)
    names = " and ".join(library.description for library in libraries)
    local = "no NVIDIA GPU here" if local_gpu is None else f"{local_gpu.sm} here"
    raise EngineError(f"{names} cannot build for {wanted} with {local}; {advice}")
