"""What a stage backend is, and which there are: the same words in every one."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy.typing as npt

from edgeexit.bundle import Bundle
from edgeexit.errors import TargetError
from edgeexit.targets import Target, load_target


class StageBackend(Protocol):
    """Runs the stages of one bundle; a context manager. `run` may be called from several threads."""

    @property
    def description(self) -> str:
        """Name and version of the runtime, e.g. `onnxruntime 1.23.2`."""

    def run(self, stage: int, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run one stage on `feeds` (every input of its graph) and return the named outputs in order.

        Raises InferenceError for inputs that the graph refuses.
        """

    def __enter__(self) -> "StageBackend":
        """Open every stage."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release what the stages hold."""


def make_backend(bundle: Bundle) -> StageBackend:
    """Return the backend that the bundle's target names, or that stands in for it, not opened yet.

    Raises TargetError for an unknown target, or a backend that is not installed.
    """
    target = load_target(bundle.manifest.target)
    return _BACKENDS.get(target.runtime, _onnxruntime)(bundle, target)


def stand_in(bundle: Bundle) -> str | None:
    """Say that the target's runtime has no backend and ONNX Runtime stands in for it; None: it has one.

    Stages are ONNX graphs whatever the target, so answers are those of the target but for rounding; latencies are not.
    """
    runtime = load_target(bundle.manifest.target).runtime
    if runtime in _BACKENDS:
        return None
    return (
        f"target '{bundle.manifest.target}' runs plans of {runtime}; here ONNX Runtime runs the stages, "
        "whose latencies say nothing of the target's"
    )


def _onnxruntime(bundle: Bundle, target: Target) -> StageBackend:
    try:
        from edgeexit.runtime.onnxruntime_backend import OnnxRuntimeBackend  # noqa: PLC0415 - backends open lazily
    except ModuleNotFoundError as error:
        raise TargetError(
            f"target '{bundle.manifest.target}' runs on onnxruntime here, which is not installed; "
            "install edgeexit[onnxruntime]"
        ) from error
    return OnnxRuntimeBackend(bundle, target)


_BACKENDS: dict[str, Callable[[Bundle, Target], StageBackend]] = {"onnxruntime": _onnxruntime}
