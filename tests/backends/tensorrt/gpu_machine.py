"""A machine with a stand-in NVIDIA GPU: plans are real; CUDA and the execution of plans are stand-ins."""

import contextlib
import functools
import importlib
import sys
import types

import pytest

from edgeexit.backends.tensorrt.cuda.gpu import cuda_runtime
from edgeexit.backends.tensorrt.library import installed_libraries
from edgeexit.errors import EngineError
from tests.backends.tensorrt import gpu_standin, tensorrt_standin


def rtx_or_skip():
    """Return the real TensorRT-RTX, or skip the test."""
    try:
        found = [library for library in installed_libraries("tensorrt_rtx") if library.name == "tensorrt_rtx"]
    except EngineError:
        found = []
    if not found:
        pytest.skip(
            "TensorRT-RTX is not installed: its wheels are for Linux on x86-64 and arm64 (edgeexit[tensorrt-rtx])"
        )
    return found[0]


@contextlib.contextmanager
def standing_in(rtx, folder, monkeypatch, *, name="tensorrt_rtx"):
    """Yield a machine that runs the bundle in `folder`: `gpu`, and `wrong`, the offset to add to a stage's logits.

    With the name `tensorrt`, the library does not capture CUDA graphs by itself.
    """
    real = importlib.import_module("cuda.bindings.runtime")
    gpu, wrong = gpu_standin.Gpu(real), {}
    cuda_runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", gpu_standin.make_cuda(real, gpu))
    api = {**vars(rtx.api), "Runtime": functools.partial(tensorrt_standin.Runtime, rtx.api, gpu, folder, wrong)}
    if name == "tensorrt":
        del api["CudaGraphStrategy"]
    library = rtx._replace(name=name, api=types.SimpleNamespace(**api))
    monkeypatch.setattr("edgeexit.backends.tensorrt.engines.toolchain.installed_libraries", lambda _first: [library])
    yield types.SimpleNamespace(memory=gpu, gpu=gpu, wrong=wrong, library=library)
    cuda_runtime.cache_clear()
