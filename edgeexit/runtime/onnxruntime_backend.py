"""Stages on ONNX Runtime: one session a stage, idle threads asleep."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import numpy.typing as npt
import onnxruntime as ort

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, InferenceError
from edgeexit.targets import Target

_ERRORS_ONLY = 3
UNSAFE_OPTIMISERS: Final = ("MatmulTransposeFusion", "QDQPropagationTransformer")
"""Left out everywhere, for they end the process: the first where a float16 is transposed before a matrix product (ONNX
Runtime 1.23 to 1.32 on x86-64, its issue 28392), the second where a body captures what was dequantised and then moved
(1.32). Neither made a difference in time on int8 and fp32 networks."""


class OnnxRuntimeBackend:
    """A stage backend on ONNX Runtime's CPU provider."""

    def __init__(self, bundle: Bundle, target: Target) -> None:
        self._bundle = bundle
        self._target = target
        self._sessions: list[ort.InferenceSession] = []

    @property
    def description(self) -> str:
        """Name and version of the runtime."""
        return f"onnxruntime {ort.__version__}"

    def run(self, stage: int, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run one stage and return the named outputs in order. Raises InferenceError for inputs that it refuses."""
        try:
            results: list[npt.NDArray[Any]] = self._sessions[stage].run(outputs, feeds)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            name = self._bundle.manifest.stages[stage].name
            given = ", ".join(f"'{name}' {'x'.join(map(str, array.shape))}" for name, array in feeds.items())
            raise InferenceError(f"{name} does not run on {given}: {str(error).splitlines()[0]}") from error
        return results

    def __enter__(self) -> "OnnxRuntimeBackend":
        """Open a session a stage. Raises BundleError for a graph that ONNX Runtime refuses."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._target.session.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Sessions run in turn, so the idle ones' threads would spin against the busy one.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._target.session.spinning)))
        for stage in self._bundle.manifest.stages:
            path = self._bundle.path / stage.file
            try:
                session = ort.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"], disabled_optimizers=UNSAFE_OPTIMISERS
                )
            except Exception as error:  # onnxruntime raises classes of its own, without a common base
                first_line = str(error).splitlines()[0]
                raise BundleError(f"bundle '{self._bundle.path}': {stage.file} does not open: {first_line}") from error
            self._sessions.append(session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the sessions."""
        self._sessions.clear()
