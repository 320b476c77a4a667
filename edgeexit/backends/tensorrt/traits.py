"""Traits of the two TensorRT backends: the library that comes with JetPack, and TensorRT for RTX."""

from typing import Final

from edgeexit.backends.traits import BackendTraits

_BACKEND: Final = "edgeexit.backends.tensorrt.backend:TensorRtBackend"
_ENGINES: Final = "edgeexit.backends.tensorrt.engines"
_START_TIMEOUT_S: Final = 180.0
"""More than the default, because every start deserializes all plans."""

TENSORRT: Final = BackendTraits(
    name="tensorrt",
    title="TensorRT",
    summary="TensorRT runs plans, which `edgeexit engines build` builds from the stages on the device",
    backend=_BACKEND,
    engines=_ENGINES,
    requires_nvidia=True,
    extra="tensorrt",
    system_module="tensorrt",
    system_module_advice="on a Jetson, run `sudo apt-get install python3-libnvinfer`",
    cuda_bindings=True,
    probe_modules=("tensorrt", "cuda.bindings"),
    device_access="gpu",
    start_timeout_s=_START_TIMEOUT_S,
)

TENSORRT_RTX: Final = BackendTraits(
    name="tensorrt_rtx",
    title="TensorRT for RTX",
    summary="TensorRT for RTX runs plans, which `edgeexit engines build` builds from the stages",
    backend=_BACKEND,
    engines=_ENGINES,
    builds_ahead_of_time=True,
    requires_nvidia=True,
    extra="tensorrt-rtx",
    probe_modules=("tensorrt_rtx_bindings", "cuda.bindings"),
    device_access="gpu",
    start_timeout_s=_START_TIMEOUT_S,
)
