"""The plans that the first start of an agent builds on a stand-in GPU, and that later starts reuse."""

import platform

import pytest

from edgeexit.backends.tensorrt.engines import build_missing_engines
from edgeexit.runtime import Runner
from tests.backends.tensorrt.tensorrt_runs import EXITS, NEVER_EARLY, assert_same
from tests.bundles import make_bundle, make_samples
from tests.recorded_progress import RecordedProgress

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgeexit" / "engines"


def test_the_first_start_builds_and_the_next_does_not(machine, bundle, own_cache, reference):
    progress = RecordedProgress()
    assert build_missing_engines(bundle, progress=progress)
    assert progress.steps == [f"stage{k}" for k in range(EXITS)]
    assert not build_missing_engines(bundle)
    with Runner(bundle) as runner:
        assert runner.runtime.startswith(machine.name)
        inputs = make_samples(3)
        assert_same(runner.infer(inputs, policy=NEVER_EARLY), reference.infer(inputs, policy=NEVER_EARLY))
    next(own_cache.glob("stage2-*.plan")).write_bytes(b"damaged")
    assert build_missing_engines(bundle)
    assert not build_missing_engines(bundle)


def test_nothing_is_built_for_a_cpu_target_or_another_architecture(
    only_tensorrt, bundle, own_cache, tmp_path, monkeypatch
):
    assert not build_missing_engines(make_bundle(tmp_path / "cpu"))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not build_missing_engines(bundle)
    assert not own_cache.exists()


def test_without_a_gpu_nothing_is_built(bundle, own_cache):
    assert not build_missing_engines(bundle)
    assert not own_cache.exists()
