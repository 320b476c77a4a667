"""What an agent's first start builds on a stand-in GPU, and what a later one does not."""

import platform

import pytest

from edgeexit.backends.tensorrt.engines import build_missing_plans
from edgeexit.runtime import Runner
from tests.backends.tensorrt.tensorrt_runs import EXITS, NEVER_EARLY, assert_same
from tests.bundles import make_bundle, make_samples

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgeexit" / "engines"


def test_the_first_start_builds_and_the_next_does_not(machine, bundle, own_cache, reference):
    stages = []
    assert build_missing_plans(bundle, on_stage=stages.append)
    assert stages == [f"stage{k}" for k in range(EXITS)]
    assert not build_missing_plans(bundle, on_stage=stages.append)
    with Runner(bundle) as runner:
        assert runner.runtime.startswith(machine.name)
        inputs = make_samples(3)
        assert_same(runner.infer(inputs, policy=NEVER_EARLY), reference.infer(inputs, policy=NEVER_EARLY))
    next(own_cache.glob("stage2-*.plan")).write_bytes(b"damaged")
    assert build_missing_plans(bundle, on_stage=stages.append)
    assert not build_missing_plans(bundle, on_stage=stages.append)


def test_a_bundle_for_another_machine_is_left_to_the_runtime(only_tensorrt, bundle, own_cache, tmp_path, monkeypatch):
    assert not build_missing_plans(make_bundle(tmp_path / "cpu"), on_stage=print)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not build_missing_plans(bundle, on_stage=print)
    assert not own_cache.exists()


def test_without_a_gpu_nothing_is_built(bundle, own_cache):
    assert not build_missing_plans(bundle, on_stage=print)
    assert not own_cache.exists()
