"""Builds one plan: a stage's graph, a recipe and the timings of earlier builds in, a plan out."""

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgeexit.backends.tensorrt.engines.build_config import Shapes
from edgeexit.backends.tensorrt.engines.parse import ParsedStage, parse_stage
from edgeexit.backends.tensorrt.library import Library
from edgeexit.bundle.manifest import BuildConfig
from edgeexit.errors import EngineError

_ON_GPU: Final = re.compile(r"^\[GpuLayer\] (?:[A-Z_0-9]+: )?(.+)$")

_ADVICE: Final = {
    "FP32 GEMM is not supported": "this GPU takes fp16 and int8: compile the bundle with --precision fp16",
    "OutOfMemory": "take a smaller --batch or --workspace-mb",
}
"""What to do about TensorRT's complaints."""


class Built(NamedTuple):
    """A plan that is built and not checked yet."""

    plan: bytes
    seconds: float
    timings: bytes | None
    """What the next build need not time again; None where the library keeps none."""
    gpu_layers: tuple[str, ...] | None
    """Layers that a DLA build gave to the GPU; None where no DLA was asked for."""


def build_plan(
    library: Library,
    file: Path,
    name: str,
    *,
    sm: str,
    shapes: Mapping[str, Shapes],
    build_config: BuildConfig,
    stop: threading.Event,
    timings: bytes | None = None,
) -> Built:
    """Build the plan of the stage `name` from its graph `file` for the GPU `sm`.

    Products of float32 keep all their bits (no TF32), so that fp32 answers stay those that were proven. `stop` ends the
    build at its next step. Raises EngineError for what TensorRT does not take, or when it was stopped.
    """
    started = time.perf_counter()
    stage = parse_stage(library, file, name, prepare=lambda parser: _adjust_for_dla(library, parser, build_config))
    config = stage.builder.create_builder_config()
    library.aim_at(config, sm)
    config.set_memory_pool_limit(library.api.MemoryPoolType.WORKSPACE, build_config.workspace_mb << 20)
    config.clear_flag(library.api.BuilderFlag.TF32)
    _add_profile(stage, config, name, shapes)
    if build_config.dla_core is not None:
        _use_dla(library, stage.builder, config, build_config.dla_core)
    cache = _use_timings(config, timings) if library.keeps_timings else None

    library.journal.clear()
    monitor = _make_monitor(library.api, stop)
    config.progress_monitor = monitor
    plan = stage.builder.build_serialized_network(stage.network, config)
    if plan is None:
        why = library.journal.why()
        raise EngineError(f"{name}: {library.description} does not build it: {why}{_advice(why)}")
    return Built(
        plan=bytes(plan),
        seconds=time.perf_counter() - started,
        timings=None if cache is None else bytes(cache.serialize()),
        gpu_layers=None if build_config.dla_core is None else gpu_layers(library.journal.lines()),
    )


def _advice(why: str) -> str:
    return next((f"; {advice}" for words, advice in _ADVICE.items() if words in why), "")


def gpu_layers(lines: list[str]) -> tuple[str, ...]:
    """Return the layers that a DLA build gave to the GPU, from TensorRT's own account of the build.

    The account names them one by one; in the finished plan, what the GPU's compiler fused looks like what the DLA took.
    """
    found = (_ON_GPU.match(line.removeprefix("[TRT] ")) for line in lines)
    return tuple(match[1] for match in found if match is not None)


def _adjust_for_dla(library: Library, parser: Any, build_config: BuildConfig) -> None:
    flag = getattr(library.api.OnnxParserFlag, "ADJUST_FOR_DLA", None)  # newer than 10.3
    if build_config.dla_core is not None and flag is not None:
        parser.set_flag(flag)


def _add_profile(stage: ParsedStage, config: Any, name: str, shapes: Mapping[str, Shapes]) -> None:
    """Give every input its shapes. Raises EngineError where graph and manifest have other inputs or ranks."""
    profile = stage.builder.create_optimization_profile()
    inputs = [stage.network.get_input(index) for index in range(stage.network.num_inputs)]
    if {tensor.name for tensor in inputs} != set(shapes):
        raise EngineError(
            f"{name}: the graph reads {', '.join(sorted(tensor.name for tensor in inputs))}, the manifest says "
            f"{', '.join(sorted(shapes))}; compile the bundle again"
        )
    for tensor in inputs:
        least, optimal, most = shapes[tensor.name]
        declared = tuple(tensor.shape)
        fixed = zip(declared, least, most, strict=False)
        if len(declared) != len(least) or any(size >= 0 and not low == size == high for size, low, high in fixed):
            raise EngineError(
                f"{name}: '{tensor.name}' is {_text(declared)} in the graph, which does not fit "
                f"{_text(least)} to {_text(most)}; compile the bundle again"
            )
        profile.set_shape(tensor.name, least, optimal, most)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{name}: TensorRT refuses the shapes {dict(shapes)}")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape) or "a scalar"


def _use_dla(library: Library, builder: Any, config: Any, core: int) -> None:
    if core >= builder.num_DLA_cores:
        raise EngineError(
            f"there is no DLA core {core}: {library.description} sees {builder.num_DLA_cores} here; "
            "leave --dla out, or build where there is one"
        )
    config.default_device_type = library.api.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.api.BuilderFlag.GPU_FALLBACK)


def _use_timings(config: Any, timings: bytes | None) -> Any:
    """Attach earlier timings, or a new cache where TensorRT finds them to be another device's."""
    cache = config.create_timing_cache(timings or b"")
    if cache is None or not config.set_timing_cache(cache, False):  # noqa: FBT003 - pybind11 takes it by position
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)  # noqa: FBT003
    return cache


def _make_monitor(api: Any, stop: threading.Event) -> Any:
    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        """Tells TensorRT to end the build at its next step once `stop` is set."""

        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:  # noqa: ARG002 - TensorRT's signature
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()
