"""The TensorRT backend: one CUDA stream, shared scratch memory, and one batch context per active batch."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy.typing as npt

from edgeexit.backends.base import ALLOW_FALLBACK
from edgeexit.backends.tensorrt.batch import TensorRtBatch
from edgeexit.backends.tensorrt.batch_context import BatchContext, SharedResources
from edgeexit.backends.tensorrt.cuda.gpu import find_gpu
from edgeexit.backends.tensorrt.cuda.memory import CudaStream, DeviceMemory
from edgeexit.backends.tensorrt.engines.build_config import out_of_range, resolve_build_config
from edgeexit.backends.tensorrt.engines.cache import PlanCache, default_folder
from edgeexit.backends.tensorrt.engines.key import plan_key
from edgeexit.backends.tensorrt.engines.toolchain import choose_toolchain
from edgeexit.backends.tensorrt.execution import OpenPlan, ScratchMemory
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import StageSpec
from edgeexit.errors import EngineError, InferenceError, TargetError
from edgeexit.targets import Target

_MAX_IDLE_CONTEXTS: Final = 4


class TensorRtBackend:
    """Runs the stages of a bundle as plans of TensorRT 10, 11 or TensorRT-RTX.

    The plans must be in the cache: `edgeexit engines build` puts them there.

    All operations are enqueued in one stream, so one stage runs at a time; one stage is enough to occupy a small GPU.
    All stages share the scratch memory of the largest one. Batches of several threads may be active at the same time;
    each has its own batch context.

    Args:
        bundle: the bundle to run.
        target: its target, whose `runtime` names the library.
        fallback: whether the other library may run the plans if the target's is not installed.
        cache: folder of the plans; default: that of `edgeexit engines build`.
        graphs: whether stages run as CUDA graphs if they can; False for debugging.

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
        """Find the library and the GPU.

        Raises EngineError if one is missing or a symbolic dimension has no range, and TargetError if only the other
        library is installed and `fallback` is False.
        """
        self._bundle = bundle
        try:
            find_gpu()
        except EngineError as error:
            raise EngineError(f"no NVIDIA GPU was found here: {error}") from error
        self._toolchain = choose_toolchain(None, first=target.runtime)
        self._build_config = resolve_build_config(bundle.manifest, target.nvidia)
        self._cache = cache
        self._graphs = graphs
        self._warnings: list[str] = []
        if self._toolchain.library.name != target.runtime:
            used = self._toolchain.library.name
            warning = f"target '{bundle.manifest.target}' names {target.runtime}, but {used} runs the plans"
            if not fallback:
                raise TargetError(f"{warning}; install edgeexit[{target.backend.extra}], or {ALLOW_FALLBACK}")
            self._warnings.append(warning)
        self._shared: SharedResources | None = None
        self._resources = ExitStack()
        self._pool = threading.Lock()
        self._idle: list[BatchContext] = []
        self._active = 0

    @property
    def description(self) -> str:
        """Name and version of the library, and the GPU, e.g. `tensorrt 10.3.0 on Orin`."""
        return f"{self._toolchain.library.description} on {self._toolchain.hardware.device}"

    @property
    def warnings(self) -> Sequence[str]:
        """One line per difference from the library that the target names."""
        return self._warnings

    @property
    def max_batch(self) -> int:
        """Max number of samples in a batch: the max of the build config."""
        return self._build_config.batch[-1]

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> TensorRtBatch:
        """Start a batch; its inputs are copied. Raises InferenceError for a size outside the build config."""
        shapes = {name: array.shape for name, array in inputs.items()}
        reason = out_of_range(self._bundle.manifest, self._build_config, shapes)
        if reason is not None:
            raise InferenceError(f"{reason}; compile the bundle with a wider --dimension")
        count = len(next(iter(inputs.values())))
        if count > self.max_batch:
            raise InferenceError(f"{count} samples exceed the max batch size {self.max_batch}; split the batch")
        shared, context = self._take_context()
        return TensorRtBatch(shared, context, inputs, probabilities=probabilities, return_context=self._return_context)

    def __enter__(self) -> "TensorRtBackend":
        """Open the plan of every stage, and create the first batch context.

        Raises EngineError for a plan that is missing or cannot be opened, if the GPU has too little memory, and if
        batches are still active that began before the backend was closed.
        """
        with self._pool:
            if self._active:
                raise EngineError(
                    f"{self._active} batches that began before the backend was closed are still active; close them "
                    "before opening it again"
                )
        library, manifest = self._toolchain.library, self._bundle.manifest
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
            scratch = ScratchMemory(memory.allocate(size), size)
            shared = SharedResources(manifest, self._build_config, plans, stream, scratch, threading.Lock())
            resources.callback(self._close_idle_contexts)
            self._idle.append(BatchContext(shared))
            self._shared = shared
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free the memory on the GPU: now, or when the last active batch is closed."""
        with self._pool:
            self._shared = None
            last = not self._active
        if last:
            self._resources.close()

    def _read_plan(self, spec: StageSpec) -> bytes:
        folder, library = self._cache or default_folder(), self._toolchain.library
        key = plan_key(
            self._bundle.manifest,
            spec,
            self._build_config,
            library=library.name,
            version=library.version,
            hardware=self._toolchain.hardware,
        )
        stored = PlanCache(folder).open_plan(key, spec.name)
        if stored is None:
            option = "" if self._cache is None else f" --cache {folder}"
            raise EngineError(
                f"{folder} has no plan of {spec.name} for {self.description} with its present driver and power mode; "
                f"run `edgeexit engines build {self._bundle.path}{option}`"
            )
        return stored.plan

    def _take_context(self) -> tuple[SharedResources, BatchContext]:
        with self._pool:
            shared = self._shared
            if shared is None:
                raise InferenceError("the backend is closed and accepts no samples")
            self._active += 1
            others = self._active - 1
            if self._idle:
                return shared, self._idle.pop()
        try:
            with shared.lock:
                return shared, BatchContext(shared)
        except EngineError as error:
            self._finish_batch()
            raise InferenceError(
                f"the GPU has no memory for another batch while {others} are active: {error}"
            ) from error

    def _return_context(self, context: BatchContext, failed: bool) -> None:  # noqa: FBT001 - a callback
        with self._pool:
            pooled = not failed and len(self._idle) < _MAX_IDLE_CONTEXTS
            if pooled:
                self._idle.append(context)
        if not pooled:
            context.close()
        self._finish_batch()

    def _finish_batch(self) -> None:
        """Decrement the number of active batches; the last one frees the resources of a closed backend."""
        with self._pool:
            self._active -= 1
            last = not self._active and self._shared is None
        if last:
            self._resources.close()

    def _close_idle_contexts(self) -> None:
        for context in self._idle:
            context.close()
        self._idle.clear()
