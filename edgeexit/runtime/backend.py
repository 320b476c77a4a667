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
    """Return the backend that the bundle's target names, not opened yet. Raises TargetError for an unknown one."""
    target = load_target(bundle.manifest.target)
    return _BACKENDS[target.runtime](bundle, target)


def _onnxruntime(bundle: Bundle, target: Target) -> StageBackend:
    try:
        from edgeexit.runtime.onnxruntime_backend import OnnxRuntimeBackend  # noqa: PLC0415 - backends open lazily
    except ModuleNotFoundError as error:
        raise TargetError(
            f"target '{bundle.manifest.target}' runs on onnxruntime, which is not installed; "
            "install edgeexit[onnxruntime]"
        ) from error
    return OnnxRuntimeBackend(bundle, target)


_BACKENDS: dict[str, Callable[[Bundle, Target], StageBackend]] = {"onnxruntime": _onnxruntime}
