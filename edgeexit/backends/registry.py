"""Which stage backends there are, and which of them a bundle gets on this machine."""

import platform
from collections.abc import Callable

from edgeexit.backends.base import ALLOW_FALLBACK, StageBackend
from edgeexit.bundle import Bundle
from edgeexit.errors import EngineError, TargetError
from edgeexit.targets import Target, load_target


def make_backend(bundle: Bundle, *, fallback: bool = True) -> StageBackend:
    """Return the backend that the bundle's target names, not opened yet.

    Args:
        bundle: an opened bundle.
        fallback: whether ONNX Runtime on the CPU may stand in, and say so in `warnings`, where the target's runtime or
            execution provider does not work here, or where the target is for another architecture. Stages are ONNX
            graphs whatever the target, so answers are those of the target but for rounding; latencies are not.

    Raises TargetError for an unknown target, another architecture or a runtime that is not installed, and EngineError
    for a runtime that does not start here.

    """
    name = bundle.manifest.target
    target = load_target(name)
    if (here := platform.machine()) != target.architecture:
        warning = f"target '{name}' is for {target.architecture}, this is {here}"
        if not fallback:
            raise TargetError(f"{warning}; compile for a target of {here}, or {ALLOW_FALLBACK}")
        return _onnxruntime(bundle, target, fallback=True, warning=f"{warning}: latencies say nothing of the target's")
    if target.runtime == "onnxruntime":
        return _onnxruntime(bundle, target, fallback=fallback, warning=None)
    try:
        return _BACKENDS[target.runtime](bundle, target, fallback)
    except (EngineError, TargetError) as error:
        if not fallback:
            if isinstance(error, TargetError):
                raise
            raise EngineError(
                f"target '{name}' runs plans of {target.runtime}, which does not start here: {error}; run them on the "
                f"target, compile for a target of this machine, or {ALLOW_FALLBACK}"
            ) from error
        warning = (
            f"target '{name}' runs plans of {target.runtime}; here ONNX Runtime runs the stages, whose latencies say "
            f"nothing of the target's ({error})"
        )
        return _onnxruntime(bundle, target, fallback=True, warning=warning)


def _onnxruntime(bundle: Bundle, target: Target, *, fallback: bool, warning: str | None) -> StageBackend:
    try:
        from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend  # noqa: PLC0415 - backends open lazily
    except ModuleNotFoundError as error:
        raise TargetError(
            f"target '{bundle.manifest.target}' runs on onnxruntime here, which is not installed; "
            "install edgeexit[onnxruntime]"
        ) from error
    return OnnxRuntimeBackend(bundle, target, fallback=fallback, warning=warning)


def _tensorrt(bundle: Bundle, target: Target, fallback: bool) -> StageBackend:  # noqa: FBT001 - as in the registry
    from edgeexit.backends.tensorrt.backend import TensorRtBackend  # noqa: PLC0415 - backends open lazily

    return TensorRtBackend(bundle, target, fallback=fallback)


_BACKENDS: dict[str, Callable[[Bundle, Target, bool], StageBackend]] = {
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt,
}
