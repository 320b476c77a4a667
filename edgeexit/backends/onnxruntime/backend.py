"""Stages on ONNX Runtime: one session a stage, idle threads asleep, one arena for all."""

import functools
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.backends.base import ALLOW_FALLBACK
from edgeexit.backends.onnxruntime.batch import Buffers, OnnxRuntimeBatch, dimensions_of, make_tensor_plan
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, EdgeExitError, InferenceError, TargetError
from edgeexit.targets import Target

UNSAFE_OPTIMISERS: Final = ("MatmulTransposeFusion", "QDQPropagationTransformer")
"""Left out everywhere, for they end the process: the first where a float16 is transposed before a matrix product (ONNX
Runtime 1.23 to 1.32 on x86-64, its issue 28392), the second where a body captures what was dequantised and then moved
(1.32). Neither made a difference in time on int8 and fp32 networks."""
MAX_BATCH: Final = 64
"""In one batch: enough for all the efficiency that there is, and bounded memory."""

_ERRORS_ONLY: Final = 3
_CPU: Final = "CPUExecutionProvider"
_IDLE_BUFFERS: Final = 4


class OnnxRuntimeBackend:
    """A stage backend on ONNX Runtime.

    Args:
        bundle: what to run.
        target: says how.
        fallback: whether to run on the CPU where the target's execution provider does not work here.
        remark: what differs from the target already.

    """

    def __init__(self, bundle: Bundle, target: Target, *, fallback: bool, warning: str | None) -> None:
        self._bundle = bundle
        self._target = target
        self._fallback = fallback
        self._warnings = [] if warning is None else [warning]
        self._provider = _CPU if warning is not None else target.session.provider
        self._plan = make_tensor_plan(bundle.manifest)
        self._sessions: tuple[ort.InferenceSession, ...] = ()
        self._lock = threading.Lock()
        self._idle: list[Buffers] = []

    @property
    def description(self) -> str:
        """Name and version of the runtime, and the execution provider where it is not the CPU's."""
        return f"onnxruntime {ort.__version__}" + ("" if self._provider == _CPU else f" ({self._provider})")

    @property
    def provider(self) -> str:
        """Execution provider that runs the stages."""
        return self._provider

    @property
    def warnings(self) -> Sequence[str]:
        """What differs from what the target names."""
        return self._warnings

    @property
    def max_batch(self) -> int:
        """Largest batch."""
        return MAX_BATCH

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> OnnxRuntimeBatch:
        """Take in a batch; its inputs are copied. Raises InferenceError while it is closed."""
        sessions = self._sessions
        if not sessions:
            raise InferenceError("the runtime is closed; no more samples are taken")
        count = len(next(iter(inputs.values())))
        dimensions = dimensions_of(self._plan, inputs)
        buffers = self._take_idle(dimensions, count)
        if buffers is None:
            buffers = Buffers(self._plan, sessions, dimensions, count)
        for name, array in inputs.items():
            buffers.put(name, array)
        return OnnxRuntimeBatch(self._plan, buffers, count, probabilities=probabilities, give_back=self._take_back)

    def __enter__(self) -> "OnnxRuntimeBackend":
        """Open a session a stage. Raises BundleError for a graph, TargetError for a provider, that does not work."""
        try:
            self._open()
        except TargetError as error:
            if not self._fallback:
                raise TargetError(f"{error}; name another in the target's [session], or {ALLOW_FALLBACK}") from error
            self._warnings.append(f"{error}; the CPU runs the stages")
            self._provider = _CPU
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release sessions and buffers; batches under way keep theirs to their end."""
        self._use(())

    def _open(self) -> None:
        _share_arena()
        sessions: list[ort.InferenceSession] = []
        options = session_options(self._target)
        options.add_session_config_entry("session.use_env_allocators", "1")
        if self._provider not in ort.get_available_providers():
            raise TargetError(f"{self._asked} is not in this build of ONNX Runtime")
        for stage in self._bundle.manifest.stages:
            path = self._bundle.path / stage.file
            try:
                session = ort.InferenceSession(
                    path, options, providers=[self._provider], disabled_optimizers=UNSAFE_OPTIMISERS
                )
            except Exception as error:  # onnxruntime raises classes of its own, without a common base
                first_line = str(error).splitlines()[0]
                if self._provider != _CPU:
                    raise TargetError(f"{self._asked} does not open {stage.file}: {first_line}") from error
                raise BundleError(f"bundle '{self._bundle.path}': {stage.file} does not open: {first_line}") from error
            if session.get_providers()[0] != self._provider:  # it was listed, and left out without an error
                raise TargetError(f"{self._asked} does not start here")
            sessions.append(session)
        self._use(tuple(sessions))
        if self._provider != _CPU:
            self._try_provider()

    def _try_provider(self) -> None:
        """Run a golden sample: that a provider opens a graph says little. Raises TargetError where it fails."""
        inputs = {name: array[:1] for name, array in self._bundle.golden().inputs.items()}
        try:
            with self.begin(inputs, probabilities=False) as batch:
                sound = all(np.isfinite(batch.run(1.0)).all() for _ in self._sessions)
        except EdgeExitError as error:
            raise TargetError(f"{self._asked} does not run: {error}") from error
        if not sound:
            raise TargetError(f"{self._asked} answers a golden sample with numbers that are none")

    @property
    def _asked(self) -> str:
        return f"execution provider '{self._provider}' of target '{self._bundle.manifest.target}'"

    def _use(self, sessions: tuple[ort.InferenceSession, ...]) -> None:
        with self._lock:
            self._sessions = sessions
            self._idle.clear()

    def _take_idle(self, dimensions: tuple[tuple[str, int], ...], count: int) -> Buffers | None:
        with self._lock:
            for place in reversed(range(len(self._idle))):
                if self._idle[place].capacity >= count and self._idle[place].dimensions == dimensions:
                    return self._idle.pop(place)
        return None

    def _take_back(self, buffers: Buffers) -> None:
        with self._lock:
            if buffers.sessions is not self._sessions:  # closed meanwhile; its bindings are of no use to others
                return
            self._idle.append(buffers)
            if len(self._idle) > _IDLE_BUFFERS:
                del self._idle[0]


def session_options(target: Target) -> ort.SessionOptions:
    """Return what a target says of a session: threads, and whether idle ones spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.session.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Sessions run in turn, so the idle ones' threads would spin against the busy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(target.session.spinning)))
    return options


@functools.cache
def _share_arena() -> None:
    """Let all sessions of this process have one arena: several would each keep memory that the others need."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, None)
    except Exception as error:  # onnxruntime raises classes of its own
        if "already registered" not in str(error):  # by the application: as good
            raise
