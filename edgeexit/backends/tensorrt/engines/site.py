"""Chooses which library builds, and for which GPU."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeexit.backends.tensorrt.cuda.gpu import Hardware, find_gpu
from edgeexit.backends.tensorrt.library import Library, installed_libraries
from edgeexit.errors import EngineError

_CAPABILITY: Final = re.compile(r"(?:SM_?)?(\d{1,2})\.?(\d)", re.IGNORECASE)


class Site(NamedTuple):
    """Who builds, and for what."""

    library: Library
    hardware: Hardware
    is_here: bool
    """Whether that GPU is in this machine, and so can run what was built."""


def read_sm(text: str) -> str:
    """Return a compute capability as TensorRT calls it, SM86, from `sm_86`, `8.6` or `86` too. Raises EngineError."""
    match = _CAPABILITY.fullmatch(text.strip())
    if match is None:
        raise EngineError(f"--for '{text}' is no compute capability, such as SM86 or 8.6")
    return f"SM{match[1]}{match[2]}"


def choose_site(sm: str | None, *, first: str = "tensorrt") -> Site:
    """Return a library that builds for the GPU `sm`, by default this machine's; `first` names the preferred library.

    Raises EngineError where nothing that is installed can.
    """
    libraries = installed_libraries(first)
    try:
        here = find_gpu()
    except EngineError as error:
        return match_site(sm, libraries, None, why_none=str(error))
    return match_site(sm, libraries, here)


def match_site(sm: str | None, libraries: Sequence[Library], here: Hardware | None, *, why_none: str = "") -> Site:
    """Do what `choose_site` says, of these libraries and the GPU that is `here`."""
    wanted = sm or (here.sm if here is not None else None)
    every = ", ".join(dict.fromkeys(name for library in libraries for name in library.ahead_of_time))
    offer = f"--for takes {every}" if every else "install edgeexit[tensorrt-rtx] to build ahead of time for another"
    if wanted is None:
        raise EngineError(
            f"there is no NVIDIA GPU here to build for ({why_none}); build on the device itself (a Jetson always), or: "
            f"{offer}"
        )
    if here is not None and wanted == here.sm:
        for library in libraries:
            if not library.ahead_of_time or wanted in library.ahead_of_time:
                return Site(library, here, is_here=True)
    for library in libraries:
        if wanted in library.ahead_of_time:
            return Site(library, Hardware(sm=wanted), is_here=False)
    names = " and ".join(library.description for library in libraries)
    there = "no NVIDIA GPU here" if here is None else f"{here.sm} here"
    raise EngineError(f"{names} cannot build for {wanted} with {there}; {offer}")
