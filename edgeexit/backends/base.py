"""What a stage backend is: the same words in every one."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

ALLOW_FALLBACK: Final = "allow fallback (in agent.toml, fallback = true)"
"""What to do where nothing but what the target names is asked for, and that is not to be had here."""

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

    def select_rows(self, rows: Rows) -> None:
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
    def warnings(self) -> Sequence[str]:
        """What differs from what the target names, known once it is open; none: all is as the target says."""

    @property
    def max_batch(self) -> int:
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
