"""Bundles and the TensorRT-RTX that builds them; what needs the wheel is skipped where it is not installed."""

import functools
import importlib
import sys
import types

import pytest

from edgeexit.engines import PlanCache, choose_site, resolve_recipe
from edgeexit.engines.gpu import cuda_runtime
from edgeexit.engines.library import installed_libraries
from edgeexit.errors import EngineError
from tests.bundles import make_bundle
from tests.engines import gpu_standin


def rtx_or_skip():
    try:
        found = [library for library in installed_libraries("tensorrt_rtx") if library.name == "tensorrt_rtx"]
    except EngineError:
        found = []
    if not found:
        pytest.skip(
            "TensorRT-RTX is not installed: its wheels are for Linux on x86-64 and arm64 (edgeexit[tensorrt-rtx])"
        )
    return found[0]


@pytest.fixture(scope="session")
def rtx():
    return rtx_or_skip()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("engines") / "tiny")


@pytest.fixture
def cache(tmp_path):
    return PlanCache(tmp_path / "cache")


@pytest.fixture
def ahead(rtx):
    """SM86, ahead of time."""
    return choose_site("SM86", first="tensorrt_rtx")


@pytest.fixture
def recipe(tiny):
    return resolve_recipe(tiny.manifest, None)


@pytest.fixture
def standin(rtx, tiny, monkeypatch):
    """A machine with an SM86 GPU that is not there; `wrong` says which stages answer with which offset."""
    real = importlib.import_module("cuda.bindings.runtime")
    memory, wrong = gpu_standin.Memory(), {}
    cuda_runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", gpu_standin.make_cuda(real, memory))
    runtime = functools.partial(gpu_standin.Runtime, rtx.api, tiny.path, wrong)
    library = rtx._replace(api=types.SimpleNamespace(**{**vars(rtx.api), "Runtime": runtime}))
    monkeypatch.setattr("edgeexit.engines.choose.installed_libraries", lambda _first: [library])
    yield types.SimpleNamespace(memory=memory, wrong=wrong, library=library)
    cuda_runtime.cache_clear()
