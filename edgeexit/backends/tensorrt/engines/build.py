"""Builds the plans of a bundle: reuses cached plans, and verifies new ones before it stores them."""

import functools
import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy.typing as npt

from edgeexit.backends.golden_check import ExitCheck, check_exit
from edgeexit.backends.tensorrt.cuda.gpu import Hardware
from edgeexit.backends.tensorrt.engines.build_config import out_of_range, stage_shapes
from edgeexit.backends.tensorrt.engines.builder import build_plan
from edgeexit.backends.tensorrt.engines.cache import PlanCache, PlanRecord, StoredPlan
from edgeexit.backends.tensorrt.engines.golden_run import GoldenRun
from edgeexit.backends.tensorrt.engines.key import PlanKey, plan_key
from edgeexit.backends.tensorrt.engines.toolchain import Toolchain
from edgeexit.backends.tensorrt.interrupt import run_on_thread
from edgeexit.bundle import GOLDEN, Bundle, GoldenSamples
from edgeexit.bundle.manifest import BuildConfig, StageSpec
from edgeexit.errors import EngineError
from edgeexit.progress import NO_PROGRESS, Progress


class StageEngine(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of one stage."""

    stage: str
    exit: str
    plan: str
    """Path of the plan."""
    bytes: int
    build_seconds: float
    """Duration of the build, also for a cached plan."""
    cached: bool
    """The plan was in the cache."""
    check: ExitCheck | None
    """The plan's logits compared with the golden samples; null if the plan was not verified."""
    gpu_layers: tuple[str, ...] | None
    """Layers of a DLA build that run on the GPU; null if the build was not for a DLA."""


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """The plans of all stages of a bundle, as `build_engines` returns them."""

    bundle: str
    """Digest of the bundle."""
    library: str
    version: str
    hardware: Hardware
    build_config: BuildConfig
    not_verified: str | None
    """Why the plans were not verified; null if they were."""
    stages: tuple[StageEngine, ...]


class BuildJob(NamedTuple):
    """What to build, with which library, and where to store it."""

    bundle: Bundle
    toolchain: Toolchain
    build_config: BuildConfig
    cache: PlanCache
    graphs: Callable[[], Path]
    """Returns a private folder with verified copies of the graphs and weights, because the parser opens files."""
    stop: threading.Event
    """Setting it ends the build."""


class StageExecution(Protocol):
    """Runs the plan of a stage on the golden samples, after the stages before it. `GoldenRun` implements it."""

    def run(self, stage: StageSpec, plan: bytes) -> npt.NDArray[Any]:
        """Return the exit's logits. Raises EngineError for a plan that does not run."""


class GoldenCheck(NamedTuple):
    """Runs plans on the golden samples to verify them."""

    execution: StageExecution
    golden: GoldenSamples


def build_engines(
    bundle: Bundle,
    toolchain: Toolchain,
    build_config: BuildConfig,
    cache: PlanCache,
    *,
    force: bool = False,
    progress: Progress = NO_PROGRESS,
) -> EngineReport:
    """Build, verify and store the plan of every stage that is not cached, and report the plans of all stages.

    Each plan is stored as soon as it is verified, so an interrupted build continues with the next stage.

    Args:
        bundle: an opened bundle.
        toolchain: from `choose_toolchain`.
        build_config: from `resolve_build_config`.
        cache: where plans are stored.
        force: build every stage, even if its plan is cached.
        progress: `step` receives each stage's name, on another thread.

    Raises EngineError for a stage that TensorRT refuses or whose logits are wrong, and OSError if the cache cannot be
    written.

    """
    golden, not_verified = _golden_samples(bundle, toolchain, build_config)

    def build(stop: threading.Event) -> tuple[StageEngine, ...]:
        with ExitStack() as stack:

            @functools.cache  # only if a stage is built
            def copy_graphs() -> Path:
                from edgeexit.bundle.stage_graphs import copy_stage_files  # noqa: PLC0415 - needs protobuf

                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeexit-engines-")))
                copy_stage_files(bundle, folder)
                return folder

            job = BuildJob(bundle, toolchain, build_config, cache, copy_graphs, stop)
            check = None
            if golden is not None:
                smallest, _, largest = build_config.batch
                run = GoldenRun(
                    toolchain.library, golden.inputs, batch=(smallest, largest), dla_core=build_config.dla_core
                )
                check = GoldenCheck(stack.enter_context(run), golden)
            return tuple(_build_stages(job, check, force=force, progress=progress))

    stages = run_on_thread(build)
    return EngineReport(
        bundle=bundle.digest,
        library=toolchain.library.name,
        version=toolchain.library.version,
        hardware=toolchain.hardware,
        build_config=build_config,
        not_verified=not_verified,
        stages=stages,
    )


def _build_stages(
    job: BuildJob, golden_check: GoldenCheck | None, *, force: bool, progress: Progress
) -> Iterator[StageEngine]:
    """Yield the plan of each stage, built if it is not cached; without a golden check no plan is verified."""
    library, manifest = job.toolchain.library, job.bundle.manifest
    for spec in manifest.stages:
        if job.stop.is_set():
            return
        progress.step(spec.name)
        key = plan_key(
            manifest,
            spec,
            job.build_config,
            library=library.name,
            version=library.version,
            hardware=job.toolchain.hardware,
        )
        stored = None if force else job.cache.open_plan(key, spec.name)
        check = None
        if stored is not None and golden_check is not None:
            try:  # cached plans are verified again; later stages also need the carry of this one
                check = _check(job, golden_check, spec, stored.plan)
            except EngineError:
                job.cache.discard(key, spec.name)
                stored = None
        cached = stored is not None
        if stored is None:
            stored, check = _build(job, golden_check, spec, key)
        yield StageEngine(
            stage=spec.name,
            exit=spec.exit.name,
            plan=str(stored.path),
            bytes=len(stored.plan),
            build_seconds=stored.record.build_seconds,
            cached=cached,
            check=check,
            gpu_layers=stored.record.gpu_layers,
        )


def _build(
    job: BuildJob, golden_check: GoldenCheck | None, spec: StageSpec, key: PlanKey
) -> tuple[StoredPlan, ExitCheck | None]:
    """Build a plan, verify it if there is a golden check, and store it."""
    manifest = job.bundle.manifest
    built = build_plan(
        job.toolchain.library,
        job.graphs() / spec.file,
        spec.name,
        sm=job.toolchain.hardware.sm,
        shapes=stage_shapes(manifest, spec, job.build_config),
        build_config=job.build_config,
        stop=job.stop,
        timings=job.cache.timings(key),
    )
    check = None if golden_check is None else _check(job, golden_check, spec, built.plan)
    record = PlanRecord(
        key=key,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        model=manifest.model,
        precision=manifest.precision,
        stage=spec.name,
        batch=job.build_config.batch,
        bytes=len(built.plan),
        build_seconds=round(built.seconds, 3),
        check=check,
        gpu_layers=built.gpu_layers,
    )
    path = job.cache.store_plan(built.plan, record)
    if built.timings is not None:
        job.cache.store_timings(key, built.timings)
    return StoredPlan(path, built.plan, record), check


def _check(job: BuildJob, golden_check: GoldenCheck, spec: StageSpec, plan: bytes) -> ExitCheck:
    logits = golden_check.execution.run(spec, plan)
    name = spec.exit.name
    return check_exit(name, golden_check.golden.exits[name], logits, job.bundle.manifest.precision)


def _golden_samples(
    bundle: Bundle, toolchain: Toolchain, build_config: BuildConfig
) -> tuple[GoldenSamples | None, str | None]:
    """Return the golden samples if plans can run on them here; otherwise None and the reason."""
    if not toolchain.gpu_is_local:
        return None, f"no {toolchain.hardware.sm} GPU here"
    if GOLDEN not in bundle.manifest.files:
        return None, "the bundle has no golden samples"
    golden = bundle.golden()
    reason = out_of_range(bundle.manifest, build_config, {name: array.shape for name, array in golden.inputs.items()})
    return (golden, None) if reason is None else (None, f"golden samples: {reason}")
