"""Builds the plan of one stage from its graph, a build config, and the kernel timings of earlier builds."""

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgeexit.backends.tensorrt.engines.build_config import ProfileShapes
from edgeexit.backends.tensorrt.engines.parse import ParsedStage, parse_stage
from edgeexit.backends.tensorrt.library import Library
from edgeexit.bundle.manifest import BuildConfig
from edgeexit.errors import EngineError

_GPU_LAYER: Final = re.compile(r"^\[GpuLayer\] (?:[A-Z_0-9]+: )?(.+)$")

_ADVICE: Final = {
    "FP32 GEMM is not supported": "this GPU supports fp16 and int8: compile the bundle with --precision fp16",
    "OutOfMemory": "use a smaller --batch or --workspace-mb",
}
"""Text in an error message of TensorRT -> what to do."""


class BuiltPlan(NamedTuple):
    """A plan that is built but not verified yet."""

    plan: bytes
    seconds: float
    timings: bytes | None
    """TensorRT's timing cache, which speeds up the next build; None if the library has none."""
    gpu_layers: tuple[str, ...] | None
    """Layers of a DLA build that run on the GPU; None if the build was not for a DLA."""


def build_plan(
    library: Library,
    file: Path,
    name: str,
    *,
    sm: str,
    shapes: Mapping[str, ProfileShapes],
    build_config: BuildConfig,
    stop: threading.Event,
    timings: bytes | None = None,
) -> BuiltPlan:
    """Build the plan of the stage `name` from its graph `file` for the GPU `sm`.

    TF32 is off, so that fp32 logits match those of the ONNX graphs. Setting `stop` ends the build at its next step.
    Raises EngineError for a graph that TensorRT refuses, and when the build was stopped.
    """
    started = time.perf_counter()
    stage = parse_stage(library, file, name, prepare=lambda parser: _adjust_for_dla(library, parser, build_config))
    config = stage.builder.create_builder_config()
    library.set_compute_capability(config, sm)
    config.set_memory_pool_limit(library.api.MemoryPoolType.WORKSPACE, build_config.workspace_mb << 20)
    config.clear_flag(library.api.BuilderFlag.TF32)
    _add_profile(stage, config, name, shapes)
    if build_config.dla_core is not None:
        _use_dla(library, stage.builder, config, build_config.dla_core)
    cache = _use_timings(config, timings) if library.keeps_timings else None

    library.messages.clear()
    monitor = _make_monitor(library.api, stop)
    config.progress_monitor = monitor
    plan = stage.builder.build_serialized_network(stage.network, config)
    if plan is None:
        reason = library.messages.last_error()
        raise EngineError(f"{name}: {library.description} cannot build the plan: {reason}{_advice(reason)}")
    return BuiltPlan(
        plan=bytes(plan),
        seconds=time.perf_counter() - started,
        timings=None if cache is None else bytes(cache.serialize()),
        gpu_layers=None if build_config.dla_core is None else gpu_layers(library.messages.texts()),
    )


def _advice(reason: str) -> str:
    return next((f"; {advice}" for text, advice in _ADVICE.items() if text in reason), "")


def gpu_layers(messages: list[str]) -> tuple[str, ...]:
    """Return the layers of a DLA build that run on the GPU, from TensorRT's build messages.

    Only the messages name each of them: the finished plan does not distinguish fused layers on the GPU from layers on
    the DLA.
    """
    matches = (_GPU_LAYER.match(text.removeprefix("[TRT] ")) for text in messages)
    return tuple(match[1] for match in matches if match is not None)


def _adjust_for_dla(library: Library, parser: Any, build_config: BuildConfig) -> None:
    flag = getattr(library.api.OnnxParserFlag, "ADJUST_FOR_DLA", None)  # newer than 10.3
    if build_config.dla_core is not None and flag is not None:
        parser.set_flag(flag)


def _add_profile(stage: ParsedStage, config: Any, name: str, shapes: Mapping[str, ProfileShapes]) -> None:
    """Add an optimization profile. Raises EngineError if graph and manifest differ in their inputs or ranks."""
    profile = stage.builder.create_optimization_profile()
    inputs = [stage.network.get_input(index) for index in range(stage.network.num_inputs)]
    if {tensor.name for tensor in inputs} != set(shapes):
        raise EngineError(
            f"{name}: the graph has the inputs {', '.join(sorted(tensor.name for tensor in inputs))}, the manifest "
            f"{', '.join(sorted(shapes))}; compile the bundle again"
        )
    for tensor in inputs:
        smallest, optimal, largest = shapes[tensor.name]
        declared = tuple(tensor.shape)
        sizes = zip(declared, smallest, largest, strict=False)
        if len(declared) != len(smallest) or any(size >= 0 and not low == size == high for size, low, high in sizes):
            raise EngineError(
                f"{name}: '{tensor.name}' is {_text(declared)} in the graph, which does not match "
                f"{_text(smallest)} to {_text(largest)}; compile the bundle again"
            )
        profile.set_shape(tensor.name, smallest, optimal, largest)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{name}: TensorRT refuses the optimization profile {dict(shapes)}")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape) or "a scalar"


def _use_dla(library: Library, builder: Any, config: Any, core: int) -> None:
    if core >= builder.num_DLA_cores:
        raise EngineError(
            f"there is no DLA core {core}: {library.description} finds {builder.num_DLA_cores} here; "
            "omit --dla, or build on a device that has one"
        )
    config.default_device_type = library.api.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.api.BuilderFlag.GPU_FALLBACK)


def _use_timings(config: Any, timings: bytes | None) -> Any:
    """Attach the timing cache of earlier builds, or a new one if TensorRT refuses it because of another device."""
    cache = config.create_timing_cache(timings or b"")
    if cache is None or not config.set_timing_cache(cache, False):  # noqa: FBT003 - pybind11 takes it by position
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)  # noqa: FBT003
    return cache


def _make_monitor(api: Any, stop: threading.Event) -> Any:
    class StopMonitor(api.IProgressMonitor):  # type: ignore[misc]
        """Ends a build of TensorRT at its next step after `stop` is set."""

        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:  # noqa: ARG002 - TensorRT's signature
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            pass

    return StopMonitor()
