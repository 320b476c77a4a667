"""Identifies the NVIDIA GPU of this machine, and calls the CUDA runtime with its errors raised as EngineError."""

import functools
import importlib
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeexit.errors import EngineError
from edgeexit.telemetry.jetson import power_mode

_L4T_RELEASE: Final = Path("/etc/nv_tegra_release")


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """The GPU that a plan is built for. For a plan that is built ahead of time, all fields but `sm` are null."""

    sm: str
    """Compute capability, e.g. SM87."""
    device: str | None = None
    """Name of the GPU, as CUDA reports it."""
    cuda: str | None = None
    """CUDA version of the driver, e.g. 12.6."""
    l4t: str | None = None
    """First line of a Jetson's release file; null on other machines."""
    power_mode: str | None = None
    """Power mode of a Jetson, as nvpmodel names it; null if it is unknown and on other machines."""


def find_gpu() -> Hardware:
    """Return the GPU of this machine. Raises EngineError if there is none, or if cuda-bindings is not installed."""
    device = cuda_call("cudaGetDevice")
    runtime = cuda_runtime()
    attribute = runtime.cudaDeviceAttr
    major = cuda_call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, device)
    minor = cuda_call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, device)
    version = cuda_call("cudaDriverGetVersion")
    return Hardware(
        sm=f"SM{major}{minor}",
        device=cuda_call("cudaGetDeviceProperties", device).name.decode(),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        l4t=_l4t(),
        power_mode=power_mode(),
    )


@functools.cache
def cuda_runtime() -> Any:
    """Return the module of the CUDA runtime. Raises EngineError if it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise EngineError(
            "the package cuda-bindings, which finds the GPU, is not installed; install edgeexit[tensorrt] or "
            "edgeexit[tensorrt-rtx]"
        ) from error


def cuda_call(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its result. Raises EngineError with CUDA's error text."""
    runtime = cuda_runtime()
    try:
        status, *results = getattr(runtime, function)(*arguments)
    except RuntimeError as error:  # the driver's library is not installed
        raise EngineError(f"{function}: {error}") from error
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        raise EngineError(f"{function}: {text.decode()}")
    return results[0] if results else None


def _l4t() -> str | None:
    try:
        return _L4T_RELEASE.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    except (OSError, IndexError):
        return None
