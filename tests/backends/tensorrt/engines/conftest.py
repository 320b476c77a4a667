"""A bundle and the real TensorRT-RTX that builds it; tests that need its wheel are skipped without it."""

import pytest

from edgeexit.backends.tensorrt.engines import PlanCache, choose_toolchain, resolve_build_config
from tests.backends.tensorrt.gpu_machine import rtx_or_skip, standing_in
from tests.bundles import make_bundle


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
    """A toolchain that builds for SM86 ahead of time."""
    return choose_toolchain("SM86", first="tensorrt_rtx")


@pytest.fixture
def build_config(tiny):
    return resolve_build_config(tiny.manifest, None)


@pytest.fixture
def standin(rtx, tiny, monkeypatch):
    """A machine with a stand-in SM86 GPU that runs the plans of `tiny`."""
    with standing_in(rtx, tiny.path, monkeypatch) as machine:
        yield machine
