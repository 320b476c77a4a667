"""Plans are stored only if their logits match the golden logits. The GPU is a stand-in; see gpu_standin.py."""

import pytest

from edgeexit.backends.tensorrt.engines import build_engines, choose_toolchain, resolve_build_config
from edgeexit.backends.tensorrt.engines.golden_run import split_into_batches
from edgeexit.errors import EngineError


def test_plans_are_verified_on_the_local_gpu(standin, tiny, build_config, cache):
    toolchain = choose_toolchain(None)
    assert toolchain.gpu_is_local
    assert toolchain.hardware.sm == "SM86"
    assert toolchain.hardware.cuda == "13.2"
    for cached in (False, True):
        report = build_engines(tiny, toolchain, build_config, cache)
        assert report.not_verified is None
        for engine in report.stages:
            assert engine.cached is cached
            assert engine.check.samples == 16
            assert engine.check.agreement == 1
            assert engine.check.max_error < 1e-5
    assert standin.memory.blocks == {}


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 4, 5), (40, 40, 64)])
def test_samples_run_in_batches_within_the_range_of_the_plans(standin, tiny, cache, batch):
    report = build_engines(tiny, choose_toolchain(None), resolve_build_config(tiny.manifest, None, batch=batch), cache)
    assert [engine.check.agreement for engine in report.stages] == [1, 1, 1]
    assert standin.memory.blocks == {}


def test_a_plan_with_wrong_logits_is_not_stored(standin, tiny, build_config, cache):
    standin.wrong["stage1"] = 0.5
    with pytest.raises(EngineError, match=r"exit 'e1' differs from the golden samples by up to 0\.5"):
        build_engines(tiny, choose_toolchain(None), build_config, cache)
    assert {record.stage for record in cache.records().values()} == {"stage0"}
    assert standin.memory.blocks == {}


def test_a_cached_plan_with_wrong_logits_is_deleted(standin, tiny, build_config, cache):
    build_engines(tiny, choose_toolchain(None), build_config, cache)
    standin.wrong["stage2"] = 0.5
    with pytest.raises(EngineError, match="exit 'e2'"):
        build_engines(tiny, choose_toolchain(None), build_config, cache)
    assert {record.stage for record in cache.records().values()} == {"stage0", "stage1"}
    del standin.wrong["stage2"]
    report = build_engines(tiny, choose_toolchain(None), build_config, cache)
    assert [engine.cached for engine in report.stages] == [True, True, False]


def test_an_allocation_failure_is_reported_and_leaks_nothing(standin, tiny, build_config, cache):
    standin.memory.limit = 2000
    with pytest.raises(EngineError, match="cudaMalloc: cudaErrorMemoryAllocation"):
        build_engines(tiny, choose_toolchain(None), build_config, cache)
    assert standin.memory.blocks == {}


def test_plans_for_another_gpu_than_the_local_one_are_not_verified(standin, tiny, build_config, cache):
    report = build_engines(tiny, choose_toolchain("SM89"), build_config, cache)
    assert report.not_verified == "no SM89 GPU here"
    assert report.hardware.device is None


def test_the_stand_in_has_the_same_api_as_the_real_library(rtx):
    from tests.backends.tensorrt import tensorrt_standin  # noqa: PLC0415

    for ours, real in (
        (tensorrt_standin.Runtime, rtx.api.Runtime),
        (tensorrt_standin.Engine, rtx.api.ICudaEngine),
        (tensorrt_standin.Context, rtx.api.IExecutionContext),
        (tensorrt_standin.RuntimeConfig, rtx.api.IRuntimeConfig),
        (tensorrt_standin.RuntimeCache, rtx.api.IRuntimeCache),
    ):
        assert [name for name in vars(ours) if not name.startswith("_") and not hasattr(real, name)] == []


def test_a_cached_plan_that_fails_is_built_again_and_reuses_the_memory_of_the_run(standin, tiny, build_config, cache):
    build_engines(tiny, choose_toolchain(None), build_config, cache)
    status = standin.gpu.status.cudaErrorLaunchFailure
    standin.gpu.fail_next = {"cudaStreamSynchronize": (4, status, False)}  # in stage 1, whose carry is allocated
    report = build_engines(tiny, choose_toolchain(None), build_config, cache)
    assert [engine.cached for engine in report.stages].count(False) == 1
    assert standin.gpu.blocks == {}


@pytest.mark.parametrize(
    ("count", "min_size", "max_size", "expected"),
    [
        (5, 1, 8, [[0, 1, 2, 3, 4]]),
        (5, 1, 2, [[0, 1], [2, 3], [4, 0]]),
        (2, 5, 8, [[0, 1, 0, 1, 0]]),
        (1, 1, 1, [[0]]),
    ],
)
def test_batches_have_one_size_and_hold_every_sample(count, min_size, max_size, expected):
    assert [rows.tolist() for rows in split_into_batches(count, min_size, max_size)] == expected
