"""Bundles and the TensorRT-RTX that builds them; what needs the wheel is skipped where it is not installed."""

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
    """SM86, ahead of time."""
    return choose_toolchain("SM86", first="tensorrt_rtx")


@pytest.fixture
def build_config(tiny):
    return resolve_build_config(tiny.manifest, None)


@pytest.fixture
def standin(rtx, tiny, monkeypatch):
    """A machine with an SM86 GPU that is not there, for the plans of `tiny`."""
    with standing_in(rtx, tiny.path, monkeypatch) as machine:
        yield machine
