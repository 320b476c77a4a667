"""The ONNX Runtime backend: one session per stage, and one memory arena for all sessions."""

import functools
import os
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.backends.base import ALLOW_FALLBACK
from edgeexit.backends.onnxruntime.batch import OnnxRuntimeBatch
from edgeexit.backends.onnxruntime.buffers import Buffers, DimensionSizes, make_tensor_plan, sizes_of
from edgeexit.backends.onnxruntime.sessions import StageSession, Weights
from edgeexit.bundle import Bundle
from edgeexit.bundle.stage_graphs import read_stage_graph
from edgeexit.errors import BundleError, EdgeExitError, InferenceError, TargetError
from edgeexit.targets import Target

MAX_BATCH: Final = 64
"""Max batch size: larger batches take as long per sample and need more memory."""

_ERRORS_ONLY: Final = 3
_CPU: Final = "CPUExecutionProvider"
_MAX_IDLE_BUFFERS: Final = 4
_Opened = tuple[tuple[ort.InferenceSession, ...], deque[Buffers]]
"""The sessions, none if the backend is closed, and the pool of idle buffers that are bound to them."""


class OnnxRuntimeBackend:
    """Runs the stages of a bundle in sessions of ONNX Runtime.

    Args:
        bundle: the bundle to run.
        target: its target, whose [session] configures the sessions.
        fallback: whether to run on the CPU if the target's execution provider does not work here.
        warning: if this backend is the fallback for another one, the reason for `warnings`; the CPU then runs the
            stages. None: the execution provider of the target runs them.

    """

    def __init__(self, bundle: Bundle, target: Target, *, fallback: bool, warning: str | None = None) -> None:
        self._bundle = bundle
        self._target = target
        self._fallback = fallback
        self._warnings = [] if warning is None else [warning]
        self._provider = _CPU if warning is not None else target.session.provider
        self._plan = make_tensor_plan(bundle.manifest)
        self._first_input = bundle.manifest.inputs[0].name
        self._opened: _Opened = (), deque(maxlen=_MAX_IDLE_BUFFERS)

    @property
    def description(self) -> str:
        """Name and version of the runtime, and the execution provider unless it is the CPU's."""
        return f"onnxruntime {ort.__version__}" + ("" if self._provider == _CPU else f" ({self._provider})")

    @property
    def provider(self) -> str:
        """Execution provider that runs the stages."""
        return self._provider

    @property
    def warnings(self) -> Sequence[str]:
        """One line per difference from the runtime or provider that the target names."""
        return self._warnings

    @property
    def max_batch(self) -> int:
        """Max number of samples in a batch."""
        return MAX_BATCH

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> OnnxRuntimeBatch:
        """Start a batch; its inputs are copied. Raises InferenceError if the backend is closed."""
        sessions, idle = self._opened
        if not sessions:
            raise InferenceError("the backend is closed and accepts no samples")
        count = len(inputs[self._first_input])
        sizes = sizes_of(self._plan, inputs)
        buffers = _take_idle(idle, sizes, count) or Buffers(self._plan, sessions, sizes, count)
        for name, array in inputs.items():
            buffers.put(name, array)
        return OnnxRuntimeBatch(self._plan, buffers, count, probabilities=probabilities, return_buffers=idle.append)

    def __enter__(self) -> "OnnxRuntimeBackend":
        """Open one session per stage. Raises BundleError for a broken graph, TargetError for a broken provider."""
        try:
            self._open()
        except TargetError as error:
            if not self._fallback:
                raise TargetError(
                    f"{error}; name another provider in the target's [session], or {ALLOW_FALLBACK}"
                ) from error
            self._warnings.append(f"{error}; the CPU runs the stages")
            self._provider = _CPU
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release sessions and buffers; active batches keep theirs until they are closed."""
        self._use(())

    def _open(self) -> None:
        shares_arena = _share_arena() == os.getpid()
        sessions: list[ort.InferenceSession] = []
        if self._provider not in ort.get_available_providers():
            raise TargetError(f"{self._provider_text} is not in this build of ONNX Runtime")
        stages = self._bundle.manifest.stages
        graphs = [read_stage_graph(self._bundle, stage) for stage in stages]
        weights = Weights(self._bundle, graphs)
        for stage, graph in zip(stages, graphs, strict=True):
            options = session_options(self._target)
            if shares_arena:
                options.add_session_config_entry("session.use_env_allocators", "1")
            try:
                session = StageSession(graph.content, options, self._provider, stored=graph.weights, weights=weights)
            except BundleError:
                raise
            except Exception as error:  # onnxruntime's exceptions have no common base class
                first_line = str(error).splitlines()[0]
                if self._provider != _CPU:
                    raise TargetError(f"{self._provider_text} cannot open {stage.file}: {first_line}") from error
                raise BundleError(
                    f"bundle '{self._bundle.path}': {stage.file} cannot be opened: {first_line}"
                ) from error
            if session.get_providers()[0] != self._provider:  # ONNX Runtime dropped the provider without an error
                raise TargetError(f"{self._provider_text} does not start here")
            sessions.append(session)
        weights.require_unchanged()
        self._use(tuple(sessions))
        if self._provider != _CPU:
            self._try_provider()

    def _try_provider(self) -> None:
        """Run a golden sample, because a provider that opens a graph may still fail. Raises TargetError if it does."""
        inputs = {name: array[:1] for name, array in self._bundle.golden().inputs.items()}
        try:
            with self.begin(inputs, probabilities=False) as batch:
                finite = all(np.isfinite(batch.run(1.0)).all() for _ in self._opened[0])
        except EdgeExitError as error:
            raise TargetError(f"{self._provider_text} does not run: {error}") from error
        if not finite:
            raise TargetError(f"{self._provider_text} returns NaN or infinity for a golden sample")

    @property
    def _provider_text(self) -> str:
        return f"execution provider '{self._provider}' of target '{self._bundle.manifest.target}'"

    def _use(self, sessions: tuple[ort.InferenceSession, ...]) -> None:
        """Use these sessions from now on. Active batches return their buffers to the old pool, which nobody reads."""
        self._opened = sessions, deque(maxlen=_MAX_IDLE_BUFFERS)


def _take_idle(idle: deque[Buffers], sizes: DimensionSizes, count: int) -> Buffers | None:
    """Remove buffers of these sizes, for at least `count` samples, from the pool; None if it has none.

    Several threads may use the pool: each operation of a deque is atomic.
    """
    for _ in range(len(idle)):
        try:
            buffers = idle.pop()
        except IndexError:  # other threads have taken the rest
            return None
        if buffers.capacity >= count and buffers.sizes == sizes:
            return buffers
        idle.appendleft(buffers)
    return None


def session_options(target: Target) -> ort.SessionOptions:
    """Return the session options of a target's [session]: threads, and whether idle threads spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.session.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Sessions run one after the other, so spinning threads of idle sessions would slow down the active one.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(target.session.spinning)))
    return options


@functools.cache
def _share_arena() -> int:
    """Make all sessions of this process share one arena, so that a session reuses memory that another one has freed.

    Returns the id of the process. After a fork, the child must not use the arena: a thread of its parent may hold the
    arena's lock, which nobody releases in the child.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, None)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if "already registered" not in str(error):  # the application has registered one, which serves as well
            raise
    return os.getpid()
