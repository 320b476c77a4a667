"""Selects the backend that runs a bundle on this machine: the one that the target names, or the fallback."""

import platform

from edgeexit.backends.base import ALLOW_FALLBACK, StageBackend, load_backend
from edgeexit.backends.onnxruntime.traits import ONNXRUNTIME
from edgeexit.bundle import Bundle
from edgeexit.errors import EngineError, TargetError
from edgeexit.targets import Target, load_target


def make_backend(bundle: Bundle, *, fallback: bool = True) -> StageBackend:
    """Return the backend that the bundle's target names, not open yet.

    Args:
        bundle: an opened bundle.
        fallback: whether ONNX Runtime on the CPU may run the stages, with a line in `warnings`, if the target is for
            another architecture, or its runtime or execution provider does not work here. A bundle contains ONNX graphs
            for every target, so predictions then equal the target's except for rounding; latencies do not.

    Raises TargetError for an unknown target, another architecture, or a runtime that is not installed, and EngineError
    for a runtime that does not start here.

    """
    name = bundle.manifest.target
    target = load_target(name)
    traits = target.backend
    if (here := platform.machine()) != target.architecture:
        warning = f"target '{name}' is for {target.architecture}, this machine is {here}"
        if not fallback:
            raise TargetError(f"{warning}; compile for a target of {here}, or {ALLOW_FALLBACK}")
        return _make_fallback(bundle, target, f"{warning}: latencies do not predict the target's")
    try:
        return load_backend(traits)(bundle, target, fallback=fallback)
    except ModuleNotFoundError as error:
        missing = f"target '{name}' runs on {traits.title}, but module '{error.name}' is not installed"
        if traits is ONNXRUNTIME or not fallback:
            advice = f"edgeexit[{traits.extra}]" if traits.extra else "the package that contains it"
            raise TargetError(f"{missing}; install {advice}") from error
        reason = missing
    except TargetError as error:
        if not fallback:
            raise
        reason = str(error)
    except EngineError as error:
        reason = f"target '{name}' runs on {traits.title}, which does not start here: {error}"
        if not fallback:
            raise EngineError(
                f"{reason}; run the bundle on the target, compile for a target of this machine, or {ALLOW_FALLBACK}"
            ) from error
    return _make_fallback(
        bundle, target, f"{reason}; ONNX Runtime runs the stages instead: latencies do not predict the target's"
    )


def _make_fallback(bundle: Bundle, target: Target, warning: str) -> StageBackend:
    try:
        from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend  # noqa: PLC0415 - backends load lazily
    except ModuleNotFoundError as error:
        raise TargetError(
            f"{warning}; the fallback needs module '{error.name}', which is not installed; install "
            f"edgeexit[{ONNXRUNTIME.extra}]"
        ) from error
    return OnnxRuntimeBackend(bundle, target, fallback=True, warning=warning)
