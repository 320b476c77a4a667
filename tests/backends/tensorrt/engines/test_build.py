"""The real TensorRT-RTX parses and builds every stage that the compiler emits, for every GPU that it supports."""

import shutil

import numpy as np
import pytest

from edgeexit.backends.tensorrt.engines import (
    PlanCache,
    build_engines,
    check_stages,
    choose_toolchain,
    resolve_build_config,
)
from edgeexit.bundle import Bundle, write_manifest
from edgeexit.errors import EngineError
from tests.bundles import make_bundle
from tests.compiler import graphs
from tests.compiler.networks import (
    Dense,
    ManyOperators,
    Masked,
    Positions,
    Recurrent,
    Residual,
    Segmenter,
    SequenceFirst,
)
from tests.recorded_progress import RecordedProgress


def _compiled(folder, network, inputs, **options):
    from edgeexit.compiler import CompileOptions, compile_bundle  # noqa: PLC0415 - torch takes seconds to load

    return compile_bundle(network(), folder, CompileOptions(inputs=inputs, **options))


RNG = np.random.default_rng(0)
IMAGES = {"image": RNG.standard_normal((32, 1, 16, 16)).astype(np.float32)}
STEPS = {"steps": RNG.standard_normal((32, 5, 4)).astype(np.float32)}
TOKENS = {
    "ids": RNG.integers(0, 50, (32, 6)),
    "mask": (np.arange(6) < RNG.integers(2, 7, (32, 1))).astype(np.int64),
}
ROWS = {"x": RNG.standard_normal((32, 8)).astype(np.float32)}
SEQUENCES = {"x": RNG.standard_normal((32, 4, 8)).astype(np.float32)}


def _real(folder, network, precision, example=IMAGES, inputs=(), **options):
    """Compile for a desktop GPU; the example samples give the int8 ranges."""
    return _compiled(folder, network, inputs, example=example, precision=precision, target="nvidia-desktop", **options)


def _handmade(folder, text, precision, example=ROWS, **options):
    path = graphs.save_graph(folder.with_suffix(".onnx"), text, w=(8, 8), head=(8, 3), deep=(8, 8))
    return _real(folder, lambda: path, precision, example, **options)


def _tokens(folder, network, precision):
    inputs = [f"{name}:n,length:int64" for name in TOKENS]
    return _real(folder, network, precision, TOKENS, inputs, dimensions={"length": (1, 6, 16)})


LENGTH = {"length": (1, 7, 64)}
FLAGS = ROWS | {"flag": np.arange(32) % 2 == 0}
GATES = ROWS | {"gate": ROWS["x"]}  # their width chooses the branch
BUNDLES = {
    # name -> function that makes the bundle in a folder, and the `dimensions` of its build config
    "tiny": (make_bundle, {}),
    "residual": (lambda folder: _compiled(folder, Residual, ["image:batch,1,8,8"]), {}),
    "dense": (lambda folder: _compiled(folder, Dense, ["input:batch,4"]), {}),
    "masked": (lambda folder: _compiled(folder, Masked, ["ids:n,length:int64", "mask:n,length:int64"]), LENGTH),
    "sequence-first": (lambda folder: _compiled(folder, SequenceFirst, ["x:batch,5,6"]), {}),
    "residual-fp16": (lambda folder: _real(folder, Residual, "fp16"), {}),
    "residual-int8": (lambda folder: _real(folder, Residual, "int8"), {}),
    "segmenter": (lambda folder: _real(folder, Segmenter, "fp32"), {}),
    "segmenter-fp16": (lambda folder: _real(folder, Segmenter, "fp16"), {}),
    "segmenter-int8": (lambda folder: _real(folder, Segmenter, "int8"), {}),
    "recurrent-fp16": (lambda folder: _real(folder, Recurrent, "fp16", STEPS), {}),
    "many-operators-int8": (lambda folder: _real(folder, ManyOperators, "int8"), {}),
    "positions-fp16": (lambda folder: _tokens(folder, Positions, "fp16"), {}),
    "loop-fp16": (lambda folder: _handmade(folder, graphs.LOOP, "fp16"), {}),
    "loop-int8": (lambda folder: _handmade(folder, graphs.LOOP, "int8"), {}),
    "scan-int8": (
        lambda folder: _handmade(folder, graphs.SCAN, "int8", SEQUENCES, dimensions={"T": (1, 4, 9)}),
        {},
    ),
    "functions-fp16": (lambda folder: _handmade(folder, graphs.FUNCTIONS, "fp16", FLAGS), {}),
    "branches-int8": (lambda folder: _handmade(folder, graphs.SAME_NAMES, "int8", GATES), {"T": (4, 8, 8)}),
}


@pytest.fixture(scope="module", params=BUNDLES)
def bundle_and_ranges(request, rtx, tmp_path_factory):
    make, dimensions = BUNDLES[request.param]
    return make(tmp_path_factory.mktemp("made") / request.param), dimensions


def test_every_stage_is_parsed(bundle_and_ranges):
    bundle, _ = bundle_and_ranges
    assert check_stages(bundle.path, bundle.manifest.stages) is None


def test_every_stage_is_built_and_then_cached(bundle_and_ranges, ahead, cache):
    bundle, dimensions = bundle_and_ranges
    build_config = resolve_build_config(bundle.manifest, None, batch=(1, 4, 16), dimensions=dimensions)
    progress = RecordedProgress()
    first = build_engines(bundle, ahead, build_config, cache, progress=progress)
    assert progress.steps == [stage.name for stage in bundle.manifest.stages]
    assert [engine.stage for engine in first.stages] == progress.steps
    assert not any(engine.cached for engine in first.stages)
    assert first.not_verified == "no SM86 GPU here"
    again = build_engines(bundle, ahead, build_config, cache)
    assert all(engine.cached for engine in again.stages)
    assert [engine.plan for engine in again.stages] == [engine.plan for engine in first.stages]


def test_plans_are_built_for_every_gpu_that_the_library_supports(rtx, tiny, build_config, cache):
    gpus = set(rtx.ahead_of_time) - {"SM75"}  # TensorRT-RTX has no fp32 matmul for it
    assert {"SM80", "SM86", "SM89", "SM120"} <= gpus
    plans = set()
    for sm in gpus:
        report = build_engines(tiny, choose_toolchain(sm, first="tensorrt_rtx"), build_config, cache)
        plans.update(engine.plan for engine in report.stages)
    assert len(plans) == len(gpus) * len(tiny.manifest.stages)


def test_an_operation_without_a_kernel_for_the_gpu_is_one_line_with_advice(tiny, build_config, cache):
    with pytest.raises(
        EngineError,
        match=r"^stage0: tensorrt_rtx .* cannot build the plan: .*FP32 GEMM is not supported.*--precision fp16",
    ) as error:
        build_engines(tiny, choose_toolchain("SM75", first="tensorrt_rtx"), build_config, cache)
    assert "\n" not in str(error.value)
    assert cache.records() == {}


def test_another_build_config_gives_other_plans(tiny, ahead, build_config, cache):
    build_engines(tiny, ahead, build_config, cache)
    other = resolve_build_config(tiny.manifest, None, batch=(1, 8, 8))
    assert not any(engine.cached for engine in build_engines(tiny, ahead, other, cache).stages)


def test_a_moved_bundle_keeps_its_plans(tiny, tmp_path, ahead, build_config, cache):
    build_engines(tiny, ahead, build_config, cache)
    moved = Bundle.open(shutil.copytree(tiny.path, tmp_path / "elsewhere"))
    assert all(engine.cached for engine in build_engines(moved, ahead, build_config, cache).stages)


def test_a_cache_behind_a_symbolic_link_is_used(tiny, tmp_path, ahead, build_config, cache):
    cache.folder.mkdir()
    (tmp_path / "link").symlink_to(cache.folder)
    build_engines(tiny, ahead, build_config, PlanCache(tmp_path / "link"))
    assert all(engine.cached for engine in build_engines(tiny, ahead, build_config, cache).stages)


def test_force_builds_every_stage_again(tiny, ahead, build_config, cache):
    build_engines(tiny, ahead, build_config, cache)
    assert not any(engine.cached for engine in build_engines(tiny, ahead, build_config, cache, force=True).stages)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_timing_cache_is_stored_if_the_library_has_one(rtx, tiny, ahead, build_config, cache):
    # The timing functions of TensorRT-RTX exist but have no effect: this tests only that the calls are valid.
    timing = ahead._replace(library=rtx._replace(name="tensorrt"))
    build_engines(tiny, timing, build_config, cache)
    (file,) = cache.folder.glob("*.timings")
    build_engines(tiny, timing, build_config, cache, force=True)
    file.write_bytes(b"damaged")
    report = build_engines(tiny, timing, build_config, cache, force=True)
    assert file.read_bytes() != b"damaged"
    assert len(report.stages) == len(tiny.manifest.stages)


def test_a_graph_with_other_inputs_than_the_manifest_is_refused(tmp_path, ahead, build_config, cache):
    bundle = make_bundle(tmp_path / "mixed")
    (bundle.path / "stage1.onnx").write_bytes((bundle.path / "stage2.onnx").read_bytes())
    (bundle.path / "manifest.json").unlink()
    write_manifest(bundle.path, bundle.manifest)
    bundle = Bundle.open(bundle.path)
    with pytest.raises(EngineError, match=r"stage1: the graph has the inputs edgeexit\.temperature, hidden0, hidden1"):
        build_engines(bundle, ahead, build_config, cache)
