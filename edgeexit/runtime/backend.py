"""What a stage backend is, and which there are: the same words in every one."""

import platform
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeexit.bundle import Bundle
from edgeexit.errors import EngineError, TargetError
from edgeexit.targets import Target, load_target

Rows = npt.NDArray[np.intp]
"""Rows of a batch, by index."""


class StagedBatch(Protocol):
    """Samples on their way through the stages; what they carry stays where the backend keeps it.

    A context manager that gives its memory back. Arrays that it returns are valid until then. Used by one thread at a
    time.
    """

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4]; [B, 4 + C] where the batch was begun with probabilities.

        Raises InferenceError where the runtime refuses.
        """

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last."""

    def keep(self, rows: Rows) -> None:
        """Go on with these rows alone, in this order: at place i stands what stood at place rows[i].

        A row that moves comes from beyond len(rows), so that only as many rows are copied as have left.
        """

    def join(self, other: "StagedBatch") -> None:
        """Take in the samples of another batch, behind its own, and close that one.

        Both are of one backend, have run the same stages, and have the same dimensions but for the batch.
        """

    def __enter__(self) -> "StagedBatch":
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the memory back; a second time does nothing."""


class StageBackend(Protocol):
    """Runs the stages of one bundle; a context manager. `begin` may be called from several threads."""

    @property
    def description(self) -> str:
        """Name and version of the runtime, e.g. `onnxruntime 1.23.2`."""

    @property
    def remarks(self) -> Sequence[str]:
        """What differs from what the target names, known once it is open; none: all is as the target says."""

    @property
    def most_samples(self) -> int:
        """Largest batch that `begin` and `join` take."""

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> StagedBatch:
        """Take in a batch of samples [B, ...] of every model input, checked by the caller; they are copied.

        Raises InferenceError while it is not open.
        """

    def __enter__(self) -> "StageBackend":
        """Open every stage. Raises BundleError, TargetError or EngineError that says what does not open, and why."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release what the stages hold."""


def make_backend(bundle: Bundle, *, fallback: bool = True) -> StageBackend:
    """Return the backend that the bundle's target names, not opened yet.

    Args:
        bundle: an opened bundle.
        fallback: whether ONNX Runtime on the CPU may stand in, and say so in `remarks`, where the target's runtime or
            execution provider does not work here, or where the target is for another architecture. Stages are ONNX
            graphs whatever the target, so answers are those of the target but for rounding; latencies are not.

    Raises TargetError for an unknown target, another architecture or a runtime that is not installed, and EngineError
    for a runtime that does not start here.

    """
    name = bundle.manifest.target
    target = load_target(name)
    if (here := platform.machine()) != target.architecture:
        remark = f"target '{name}' is for {target.architecture}, this is {here}"
        if not fallback:
            raise TargetError(f"{remark}; compile for a target of {here}, or allow fallback")
        return _onnxruntime(bundle, target, fallback=True, remark=f"{remark}: latencies say nothing of the target's")
    if target.runtime == "onnxruntime":
        return _onnxruntime(bundle, target, fallback=fallback, remark=None)
    try:
        return _BACKENDS[target.runtime](bundle, target, fallback)
    except (EngineError, TargetError) as error:
        if not fallback:
            if isinstance(error, TargetError):
                raise
            raise EngineError(
                f"target '{name}' runs plans of {target.runtime}, which does not start here: {error}; run them on the "
                "target, compile for a target of this machine, or allow fallback"
            ) from error
        remark = (
            f"target '{name}' runs plans of {target.runtime}; here ONNX Runtime runs the stages, whose latencies say "
            f"nothing of the target's ({error})"
        )
        return _onnxruntime(bundle, target, fallback=True, remark=remark)


def _onnxruntime(bundle: Bundle, target: Target, *, fallback: bool, remark: str | None) -> StageBackend:
    try:
        from edgeexit.runtime.onnxruntime_backend import OnnxRuntimeBackend  # noqa: PLC0415 - backends open lazily
    except ModuleNotFoundError as error:
        raise TargetError(
            f"target '{bundle.manifest.target}' runs on onnxruntime here, which is not installed; "
            "install edgeexit[onnxruntime]"
        ) from error
    return OnnxRuntimeBackend(bundle, target, fallback=fallback, remark=remark)


def _tensorrt(bundle: Bundle, target: Target, fallback: bool) -> StageBackend:  # noqa: FBT001 - as in the registry
    from edgeexit.runtime.tensorrt_backend import TensorRtBackend  # noqa: PLC0415 - backends open lazily

    return TensorRtBackend(bundle, target, fallback=fallback)


_BACKENDS: dict[str, Callable[[Bundle, Target, bool], StageBackend]] = {
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt,
}
