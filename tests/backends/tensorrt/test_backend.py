"""The TensorRT backend on a stand-in GPU: it follows CUDA's rules, releases everything, and reports failures."""

import contextlib
import itertools

import msgspec
import numpy as np
import pytest

from edgeexit.backends.tensorrt.backend import TensorRtBackend
from edgeexit.backends.tensorrt.batch_context import BatchContext
from edgeexit.backends.tensorrt.engines import PlanCache, build_engines, choose_toolchain, resolve_build_config
from edgeexit.errors import EngineError, InferenceError, TargetError
from edgeexit.runtime import Runner, make_backend
from edgeexit.targets import load_target
from tests.backends.tensorrt.gpu_machine import rtx_or_skip, standing_in
from tests.backends.tensorrt.tensorrt_runs import EXITS, NEVER_EARLY, assert_same, open_backend
from tests.bundles import make_samples

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


def test_only_readouts_are_downloaded_and_only_rows_that_fill_gaps_are_copied(only_tensorrt, bundle, cache_folder):
    with open_backend(only_tensorrt, bundle, cache_folder) as backend:
        only_tensorrt.gpu.bytes.clear()
        with backend.begin(make_samples(32), probabilities=False) as batch:
            for _ in range(EXITS):
                batch.run(1.0)
            assert only_tensorrt.gpu.bytes["DeviceToHost"] == EXITS * 32 * 4 * 4
            assert only_tensorrt.gpu.bytes["HostToDevice"] == 32 * 8 * 4 + EXITS * 4
            assert only_tensorrt.gpu.bytes["DeviceToDevice"] == 0
        with backend.begin(make_samples(32), probabilities=False) as batch:
            batch.run(1.0)
            batch.select_rows(np.array([0, 31, 2, *range(3, 30)]))
            assert only_tensorrt.gpu.bytes["DeviceToDevice"] == 16 * 4, "only row 31 of one carry is copied, to row 1"


@pytest.mark.parametrize("how", ["invalidated", "refused"])
def test_stages_that_cannot_be_captured_run_without_graphs(only_tensorrt, bundle, cache_folder, reference, how):
    only_tensorrt.gpu.captures = how
    with Runner(bundle, backend=open_backend(only_tensorrt, bundle, cache_folder)) as runner:
        for batch in (1, 4, 1, 4, 1, 4):
            inputs = make_samples(batch, seed=batch)
            assert_same(runner.infer(inputs, policy=NEVER_EARLY), reference.infer(inputs, policy=NEVER_EARLY))
    assert only_tensorrt.gpu.calls["cudaStreamBeginCapture"] == EXITS, "the capture is tried once per stage"
    assert only_tensorrt.gpu.calls["cudaGraphLaunch"] == 0


def test_cuda_graphs_can_be_disabled(machine, bundle, cache_folder):
    with Runner(bundle, backend=open_backend(machine, bundle, cache_folder, graphs=False)) as runner:
        for _ in range(3):
            runner.infer(make_samples(2), policy=NEVER_EARLY)
    assert machine.gpu.calls["cudaStreamBeginCapture"] == 0


def test_a_stage_is_captured_once_per_batch_size(only_tensorrt, bundle, cache_folder):
    with Runner(bundle, backend=open_backend(only_tensorrt, bundle, cache_folder)) as runner:
        for _ in range(5):
            for batch in (5, 6, 7, 8):
                runner.infer(make_samples(batch), policy=NEVER_EARLY)
    assert only_tensorrt.gpu.calls["cudaStreamBeginCapture"] == EXITS


@pytest.mark.parametrize(
    "function", ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"]
)
def test_a_failure_while_opening_leaks_nothing(only_tensorrt, bundle, cache_folder, function):
    gpu = only_tensorrt.gpu
    backend = open_backend(only_tensorrt, bundle, cache_folder)
    for after in itertools.count():
        gpu.fail_next = {function: (after, gpu.status.cudaErrorMemoryAllocation, False)}
        with contextlib.suppress(EngineError), backend:
            break
        assert gpu.blocks == {}
    assert after >= 1


def test_active_batches_continue_when_there_is_no_memory_for_another_one(only_tensorrt, bundle, cache_folder):
    gpu = only_tensorrt.gpu
    with open_backend(only_tensorrt, bundle, cache_folder) as backend:
        with backend.begin(make_samples(3), probabilities=False) as batch:
            gpu.limit = sum(block.size for block in gpu.device.values()) + 1000
            with pytest.raises(
                InferenceError, match="the GPU has no memory for another batch while 1 are active: cudaMalloc"
            ):
                backend.begin(make_samples(3), probabilities=False)
            batch.run(1.0)
        with backend.begin(make_samples(3), probabilities=False) as batch:
            batch.run(1.0)


def test_a_batch_that_fails_to_begin_returns_its_context(machine, bundle, cache_folder, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    backend = open_backend(machine, bundle, cache_folder)
    with backend, monkeypatch.context() as patch:
        patch.setattr(BatchContext, "put", out_of_memory)
        with pytest.raises(MemoryError):
            backend.begin(make_samples(2), probabilities=False)
    assert machine.gpu.blocks == {}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hosted", "stage0: TensorRT needs 'hidden0' in host memory"),
        ("sized_by_data", "stage0: the size of 'hidden0' depends on the data"),
    ],
)
def test_a_plan_that_cannot_run_on_the_gpu_is_refused_when_it_is_opened(
    only_tensorrt, bundle, cache_folder, fault, message
):
    backend = open_backend(only_tensorrt, bundle, cache_folder)
    getattr(only_tensorrt.gpu, fault).add("hidden0")
    with pytest.raises(EngineError) as error, backend:
        pass
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("function", ["cudaEventSynchronize", "cudaGraphLaunch", "cudaMemcpyAsync"])
def test_a_failed_operation_is_reported_and_its_context_is_not_reused(
    only_tensorrt, bundle, cache_folder, function, sticky
):
    gpu = only_tensorrt.gpu
    with Runner(bundle, backend=open_backend(only_tensorrt, bundle, cache_folder)) as runner:
        for _ in range(3):
            expected = runner.infer(make_samples(2), policy=NEVER_EARLY)
        gpu.fail_next = {function: (2, gpu.status.cudaErrorIllegalAddress, sticky)}
        with pytest.raises(
            InferenceError, match=rf"^stage\d does not run on '\w+' 2x\d+.*: {function}: cudaErrorIllegalAddress$"
        ):
            runner.infer(make_samples(2), policy=NEVER_EARLY)
        if sticky:
            with pytest.raises(InferenceError, match="cudaErrorIllegalAddress"):
                runner.infer(make_samples(2), policy=NEVER_EARLY)
        else:
            assert gpu.calls["cudaFree"], "the state of a failed context is unknown"
            assert_same(runner.infer(make_samples(2), policy=NEVER_EARLY), expected)


def test_the_last_batch_of_a_closed_backend_frees_its_resources(machine, bundle, cache_folder):
    backend = open_backend(machine, bundle, cache_folder)
    with backend:
        batch = backend.begin(make_samples(2), probabilities=False)
    batch.run(1.0)
    assert machine.gpu.blocks
    with pytest.raises(EngineError, match="1 batches that began before the backend was closed are still active"):
        backend.__enter__()
    batch.__exit__(None, None, None)
    assert machine.gpu.blocks == {}
    with pytest.raises(InferenceError, match="closed"):
        backend.begin(make_samples(2), probabilities=False)


def test_a_backend_can_be_opened_again(machine, bundle, cache_folder):
    backend = open_backend(machine, bundle, cache_folder)
    for _ in range(2):
        with Runner(bundle, backend=backend) as runner:
            runner.infer(make_samples(2), policy=NEVER_EARLY)
        assert machine.gpu.blocks == {}


def test_a_missing_plan_is_an_error_with_the_command_to_run(machine, bundle, cache_folder, tmp_path):
    backend = open_backend(machine, bundle, tmp_path)
    for plan in tmp_path.glob("stage2-*.plan"):
        plan.write_bytes(b"damaged")
    with (
        pytest.raises(
            EngineError, match=r"no plan of stage2 for .* on Stand-in A2000 with its present driver"
        ) as error,
        backend,
    ):
        pass
    assert f"run `edgeexit engines build {bundle.path} --cache {tmp_path}`" in str(error.value)
    assert machine.gpu.blocks == {}


def test_the_other_library_is_used_only_if_fallback_is_allowed(machine, bundle, cache_folder):
    other = {"tensorrt": "tensorrt_rtx", "tensorrt_rtx": "tensorrt"}[machine.name]
    target = msgspec.structs.replace(load_target("nvidia-desktop"), runtime=other)
    backend = TensorRtBackend(bundle, target, cache=cache_folder)
    assert list(backend.warnings) == [f"target 'nvidia-desktop' names {other}, but {machine.name} runs the plans"]
    with pytest.raises(TargetError, match=f"names {other}"):
        TensorRtBackend(bundle, target, cache=cache_folder, fallback=False)
    target = msgspec.structs.replace(target, runtime=machine.name)
    assert not TensorRtBackend(bundle, target, cache=cache_folder, fallback=False).warnings


def test_the_backend_that_the_target_names_is_used(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineError, match="no NVIDIA GPU was found here: "):
        make_backend(bundle, fallback=False)
    assert make_backend(bundle).description.startswith("onnxruntime")
    with standing_in(rtx_or_skip(), bundle.path, monkeypatch) as machine:
        backend = make_backend(bundle, fallback=False)
        assert backend.description == f"{machine.library.description} on Stand-in A2000"
        with pytest.raises(EngineError, match="run `edgeexit engines build"):
            backend.__enter__()
        build_engines(
            bundle,
            choose_toolchain(None),
            resolve_build_config(bundle.manifest, load_target("nvidia-desktop").nvidia),
            PlanCache(tmp_path / "edgeexit" / "engines"),
        )
        with Runner(bundle, fallback=False) as runner:
            assert len(runner.infer(make_samples(3), policy=NEVER_EARLY).predictions) == 3
        assert machine.gpu.blocks == {}
