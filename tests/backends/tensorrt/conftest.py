"""A bundle, a reference on ONNX Runtime, and machines with a stand-in GPU that fail on leaked resources."""

import pytest

from tests.backends.tensorrt.gpu_machine import rtx_or_skip, standing_in
from tests.backends.tensorrt.tensorrt_runs import EXITS, on_onnx_runtime
from tests.bundles import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("tensorrt") / "bundle", exits=EXITS, target="nvidia-desktop")


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def reference(bundle):
    with on_onnx_runtime(bundle) as runner:
        yield runner


@pytest.fixture(params=("tensorrt", "tensorrt_rtx"))
def library(request):
    return request.param


@pytest.fixture
def machine(library, bundle, monkeypatch):
    with standing_in(rtx_or_skip(), bundle.path, monkeypatch, name=library) as found:
        found.name = library
        yield found
        assert found.gpu.blocks == {}, "a resource on the GPU was not released"


@pytest.fixture
def only_tensorrt(bundle, monkeypatch):
    with standing_in(rtx_or_skip(), bundle.path, monkeypatch, name="tensorrt") as found:
        found.name = "tensorrt"
        yield found
        assert found.gpu.blocks == {}
