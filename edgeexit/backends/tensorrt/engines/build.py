"""Builds the plans of a bundle: what is cached is kept, what is new is checked before it is stored."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy.typing as npt

from edgeexit.backends.tensorrt.cuda.gpu import Hardware
from edgeexit.backends.tensorrt.engines.build_config import outside, stage_shapes
from edgeexit.backends.tensorrt.engines.builder import build_plan
from edgeexit.backends.tensorrt.engines.cache import PlanCache, PlanRecord, StoredPlan
from edgeexit.backends.tensorrt.engines.golden_run import GoldenRun
from edgeexit.backends.tensorrt.engines.key import PlanKey, plan_key
from edgeexit.backends.tensorrt.engines.site import Site
from edgeexit.backends.tensorrt.engines.verify import ExitCheck, check_exit
from edgeexit.backends.tensorrt.interrupt import run_apart
from edgeexit.bundle import GOLDEN, Bundle, GoldenSamples
from edgeexit.bundle.manifest import BuildConfig, StageSpec
from edgeexit.errors import EngineError


class StageEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's plan."""

    stage: str
    exit: str
    plan: str
    """Path of the plan."""
    bytes: int
    build_seconds: float
    """That the plan took when it was built."""
    cached: bool
    """It was built before."""
    check: ExitCheck | None
    """What it answers to the golden samples; null where it was not verified."""
    gpu_layers: tuple[str, ...] | None
    """Layers that a DLA build gave to the GPU; null where no DLA was asked for."""


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """The plans of a bundle."""

    bundle: str
    library: str
    version: str
    hardware: Hardware
    build_config: BuildConfig
    not_verified: str | None
    """Why nothing was run; null where the plans were verified."""
    stages: tuple[StageEngine, ...]


class Work(NamedTuple):
    """What is to be built, by whom, how, and where it is kept."""

    bundle: Bundle
    site: Site
    build_config: BuildConfig
    cache: PlanCache
    stop: threading.Event
    """Set when it is to end before it is done."""


class StageExecution(Protocol):
    """Runs a stage's plan on the golden samples after those before it, as `GoldenRun` does."""

    def run(self, stage: StageSpec, plan: bytes) -> npt.NDArray[Any]:
        """Return the exit's logits. Raises EngineError for a plan that does not run."""


class Trial(NamedTuple):
    """How plans are verified."""

    run: StageExecution
    golden: GoldenSamples


def build_engines(
    bundle: Bundle,
    site: Site,
    build_config: BuildConfig,
    cache: PlanCache,
    *,
    force: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
) -> EngineReport:
    """Build, verify and store the plan of every stage that has none, and report all of them.

    Args:
        bundle: opened, so that its files are those of the manifest.
        site: from `choose_site`.
        recipe: from `resolve_build_config`.
        cache: where plans are kept.
        force: build all anew.
        on_stage: told each stage's name when it begins, on another thread.

    A stage is stored as soon as it is done: an interrupted build goes on where it was. Raises EngineError for a stage
    that TensorRT does not take or that answers wrongly, OSError where the cache cannot be written.

    """
    golden, not_verified = _golden(bundle, site, build_config)

    def work(stop: threading.Event) -> tuple[StageEngine, ...]:
        task = Work(bundle, site, build_config, cache, stop)
        with ExitStack() as stack:
            trial = None
            if golden is not None:
                least, _, most = build_config.batch
                run = GoldenRun(site.library, golden.inputs, batch=(least, most), dla_core=build_config.dla_core)
                trial = Trial(stack.enter_context(run), golden)
            return tuple(_build_stages(task, trial, force=force, on_stage=on_stage))

    stages = run_apart(work)
    return EngineReport(
        bundle=bundle.digest,
        library=site.library.name,
        version=site.library.version,
        hardware=site.hardware,
        build_config=build_config,
        not_verified=not_verified,
        stages=stages,
    )


def _build_stages(
    work: Work, trial: Trial | None, *, force: bool, on_stage: Callable[[str], None]
) -> Iterator[StageEngine]:
    """Do what `build_engines` says, stage by stage; without a trial nothing can be verified."""
    library, manifest = work.site.library, work.bundle.manifest
    for spec in manifest.stages:
        if work.stop.is_set():
            return
        on_stage(spec.name)
        key = plan_key(
            manifest,
            spec,
            work.build_config,
            library=library.name,
            version=library.version,
            hardware=work.site.hardware,
        )
        stored = None if force else work.cache.open_plan(key, spec.name)
        check = None
        if stored is not None and trial is not None:
            try:  # even one that was right before, and so that later stages have what this one carries
                check = _check(work, trial, spec, stored.plan)
            except EngineError:
                work.cache.discard(key, spec.name)
                stored = None
        cached = stored is not None
        if stored is None:
            stored, check = _build(work, trial, spec, key)
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


def _build(work: Work, trial: Trial | None, spec: StageSpec, key: PlanKey) -> tuple[StoredPlan, ExitCheck | None]:
    """Build a plan and store it if it answers rightly, or if nothing here can say."""
    manifest = work.bundle.manifest
    built = build_plan(
        work.site.library,
        work.bundle.path / spec.file,
        spec.name,
        sm=work.site.hardware.sm,
        shapes=stage_shapes(manifest, spec, work.build_config),
        build_config=work.build_config,
        stop=work.stop,
        timings=work.cache.timings(key),
    )
    check = None if trial is None else _check(work, trial, spec, built.plan)
    record = PlanRecord(
        key=key,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        model=manifest.model,
        precision=manifest.precision,
        stage=spec.name,
        batch=work.build_config.batch,
        bytes=len(built.plan),
        build_seconds=round(built.seconds, 3),
        check=check,
        gpu_layers=built.gpu_layers,
    )
    path = work.cache.store_plan(built.plan, record)
    if built.timings is not None:
        work.cache.store_timings(key, built.timings)
    return StoredPlan(path, built.plan, record), check


def _check(work: Work, trial: Trial, spec: StageSpec, plan: bytes) -> ExitCheck:
    logits = trial.run.run(spec, plan)
    return check_exit(spec.exit.name, trial.golden.exits[spec.exit.name], logits, work.bundle.manifest.precision)


def _golden(bundle: Bundle, site: Site, build_config: BuildConfig) -> tuple[GoldenSamples | None, str | None]:
    """Return the golden samples where plans can be run on them, or None and why they cannot."""
    if not site.is_here:
        return None, f"no {site.hardware.sm} GPU here"
    if GOLDEN not in bundle.manifest.files:
        return None, "the bundle has no golden samples"
    golden = bundle.golden()
    why_not = outside(bundle.manifest, build_config, {name: array.shape for name, array in golden.inputs.items()})
    return (golden, None) if why_not is None else (None, f"the golden samples' {why_not}")
