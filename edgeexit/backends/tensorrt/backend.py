"""Stages as TensorRT plans: one stream for all, scratch memory shared, a lane of its own for every batch under way."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy.typing as npt

from edgeexit.backends.base import ALLOW_FALLBACK
from edgeexit.backends.tensorrt.batch import TensorRtBatch
from edgeexit.backends.tensorrt.batch_context import BatchContext, Staged
from edgeexit.backends.tensorrt.cuda.gpu import find_gpu
from edgeexit.backends.tensorrt.cuda.memory import CudaStream, DeviceMemory
from edgeexit.backends.tensorrt.engines.build_config import outside, resolve_build_config
from edgeexit.backends.tensorrt.engines.cache import PlanCache, default_folder
from edgeexit.backends.tensorrt.engines.key import plan_key
from edgeexit.backends.tensorrt.engines.site import choose_site
from edgeexit.backends.tensorrt.execution import OpenPlan, Scratch
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import StageSpec
from edgeexit.errors import EngineError, InferenceError, TargetError
from edgeexit.targets import Target

_IDLE_LANES: Final = 4


class TensorRtBackend:
    """A stage backend on TensorRT 10, 11 or TensorRT-RTX.

    The plans are those that `edgeexit engines build` has put into the cache.

    All work goes into one stream: on the GPU one stage runs at a time, which is all that a small one has room for, and
    so one piece of scratch memory, as large as the largest stage wants, does for all. Batches of several threads are
    under way together, each with memory of its own.

    Args:
        bundle: what to run.
        target: which library its plans are for.
        fallback: whether the other library may run plans where the target's is not installed.
        cache: folder of the plans; default: that of `edgeexit engines build`.
        graphs: whether stages run as CUDA graphs where they can; off to look for what goes wrong.

    """

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        *,
        fallback: bool = True,
        cache: Path | None = None,
        graphs: bool = True,
    ) -> None:
        """Find library and GPU. Raises EngineError where there is none, or no range for a size known at run time."""
        self._bundle = bundle
        try:
            find_gpu()
        except EngineError as error:
            raise EngineError(f"there is no NVIDIA GPU here ({error})") from error
        self._site = choose_site(None, first=target.runtime)
        self._build_config = resolve_build_config(bundle.manifest, target.nvidia)
        self._cache = cache
        self._graphs = graphs
        self._warnings: list[str] = []
        if self._site.library.name != target.runtime:
            warning = (
                f"target '{bundle.manifest.target}' names {target.runtime}, {self._site.library.name} runs the plans"
            )
            if not fallback:
                raise TargetError(
                    f"{warning}; install edgeexit[{target.runtime.replace('_', '-')}], or {ALLOW_FALLBACK}"
                )
            self._warnings.append(warning)
        self._staged: Staged | None = None
        self._resources = ExitStack()
        self._pool = threading.Lock()
        self._idle: list[BatchContext] = []
        self._under_way = 0

    @property
    def description(self) -> str:
        """Name and version of the library, and the GPU, e.g. `tensorrt 10.3.0 on Orin`."""
        return f"{self._site.library.description} on {self._site.hardware.device}"

    @property
    def warnings(self) -> Sequence[str]:
        """What differs from what the target names."""
        return self._warnings

    @property
    def max_batch(self) -> int:
        """Largest batch: the recipe's."""
        return self._build_config.batch[-1]

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> TensorRtBatch:
        """Take in a batch; its inputs are copied. Raises InferenceError for what is no size of the recipe's."""
        shapes = {name: array.shape for name, array in inputs.items()}
        why_not = outside(self._bundle.manifest, self._build_config, shapes)
        if why_not is not None:
            raise InferenceError(f"the batch's {why_not}; compile with a wider --dimension")
        count = len(next(iter(inputs.values())))
        if count > self.max_batch:
            raise InferenceError(f"{count} samples are more than the {self.max_batch} of a batch")
        staged, lane = self._take_lane()
        return TensorRtBatch(staged, lane, inputs, probabilities=probabilities, give_back=self._take_back)

    def __enter__(self) -> "TensorRtBackend":
        """Open the plan of every stage, and make the first lane.

        Raises EngineError for a plan that is not there or does not open, where the GPU has no room, and while batches
        from before it was closed are under way.
        """
        with self._pool:
            if self._under_way:
                raise EngineError(
                    f"{self._under_way} batches from before the runtime was closed are still under way; let them end "
                    "before opening it again"
                )
        library, manifest = self._site.library, self._bundle.manifest
        with ExitStack() as resources:
            stream = CudaStream()
            resources.callback(stream.close)
            memory = DeviceMemory()
            resources.callback(memory.close)
            runtime = library.new_runtime(self._build_config.dla_core)
            plans = [
                OpenPlan(library, runtime, spec.name, self._read_plan(spec), graphs=self._graphs)
                for spec in manifest.stages
            ]
            size = max(plan.scratch_bytes for plan in plans)
            scratch = Scratch(memory.allocate(size), size)
            staged = Staged(manifest, self._build_config, plans, stream, scratch, threading.Lock())
            resources.callback(self._close_lanes)
            self._idle.append(BatchContext(staged))
            self._staged = staged
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free the GPU's memory: at once, or when the last batch that is under way is closed."""
        with self._pool:
            self._staged = None
            last = not self._under_way
        if last:
            self._resources.close()

    def _read_plan(self, spec: StageSpec) -> bytes:
        folder, library = self._cache or default_folder(), self._site.library
        key = plan_key(
            self._bundle.manifest,
            spec,
            self._build_config,
            library=library.name,
            version=library.version,
            hardware=self._site.hardware,
        )
        stored = PlanCache(folder).open_plan(key, spec.name)
        if stored is None:
            option = "" if self._cache is None else f" --cache {folder}"
            raise EngineError(
                f"{folder} has no plan of {spec.name} for {self.description} as it is now; run "
                f"`edgeexit engines build {self._bundle.path}{option}`"
            )
        return stored.plan

    def _take_lane(self) -> tuple[Staged, BatchContext]:
        with self._pool:
            staged = self._staged
            if staged is None:
                raise InferenceError("the runtime is closed; no more samples are taken")
            self._under_way += 1
            others = self._under_way - 1
            if self._idle:
                return staged, self._idle.pop()
        try:
            with staged.lock:
                return staged, BatchContext(staged)
        except EngineError as error:
            self._leave()
            raise InferenceError(f"no room for another batch beside the {others} under way: {error}") from error

    def _take_back(self, lane: BatchContext, failed: bool) -> None:  # noqa: FBT001 - a callback
        with self._pool:
            pooled = not failed and len(self._idle) < _IDLE_LANES
            if pooled:
                self._idle.append(lane)
        if not pooled:
            lane.close()
        self._leave()

    def _leave(self) -> None:
        """Count a batch out; the last one after the end of all frees what is left."""
        with self._pool:
            self._under_way -= 1
            last = not self._under_way and self._staged is None
        if last:
            self._resources.close()

    def _close_lanes(self) -> None:
        for lane in self._idle:
            lane.close()
        self._idle.clear()
