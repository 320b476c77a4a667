"""The protocols that a backend implements, and how its code is loaded."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from edgeexit.backends.traits import BackendTraits
from edgeexit.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle
    from edgeexit.bundle.manifest import StageSpec
    from edgeexit.targets import Target

ALLOW_FALLBACK: Final = "allow fallback (in agent.toml, fallback = true)"
"""Advice at the end of every error that reports that the target's backend does not work on this machine."""

Rows = npt.NDArray[np.intp]
"""Indices of the rows of a batch."""


class StagedBatch(Protocol):
    """A batch of samples that runs through the stages one by one. It owns the tensors that later stages read.

    A context manager: leaving it frees the memory of the batch, and invalidates the arrays that the batch returned. One
    thread at a time may use it.
    """

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4], or [B, 4 + C] if the batch began with `probabilities`.

        Raises InferenceError if the runtime fails.
        """

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last."""

    def companions(self) -> dict[str, npt.NDArray[Any]]:
        """Return the companions of the stage that ran last: companion name -> [B, ...].

        The dtypes are those of the manifest. The caller copies the rows that it needs before the next stage runs.
        """

    def select_rows(self, rows: Rows) -> None:
        """Keep only these rows: the new row i is the old row rows[i].

        The caller guarantees rows[i] == i or rows[i] >= len(rows) for every i. So most rows stay in place, and rows
        from behind the new end replace those of samples that have exited.
        """

    def join(self, other: "StagedBatch") -> None:
        """Append the samples of another batch and close that batch.

        The caller guarantees that both batches belong to this backend, have run the same stages, and differ in no
        dimension but the batch.
        """

    def __enter__(self) -> "StagedBatch":
        """Return the batch itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free the batch's memory; a second call does nothing."""


class StageBackend(Protocol):
    """Runs the stages of one bundle. A context manager. `begin` may be called from several threads."""

    @property
    def description(self) -> str:
        """Name and version of the runtime, e.g. `onnxruntime 1.23.2`."""

    @property
    def warnings(self) -> Sequence[str]:
        """One line per difference from the runtime that the target names; complete once the backend is open."""

    @property
    def max_batch(self) -> int:
        """Max number of samples in a batch."""

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> StagedBatch:
        """Start a batch of B <= `max_batch` samples; the inputs are copied.

        `inputs` maps each model input to an array [B, ...] whose shape and dtype the caller has checked. With
        `probabilities`, readouts include the probabilities of all classes. Raises InferenceError if the backend is not
        open.
        """

    def __enter__(self) -> "StageBackend":
        """Open every stage. Raises BundleError, TargetError or EngineError, which names the stage or runtime."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the memory of all stages."""


class StageBackendFactory(Protocol):
    """The constructor of a backend."""

    def __call__(self, bundle: "Bundle", target: "Target", *, fallback: bool) -> StageBackend:
        """Return a backend for a bundle, not open yet.

        `fallback`: whether the backend may use another library or execution provider than the target names. Raises
        TargetError or EngineError if the runtime does not start on this machine.
        """


class EngineBuilder(Protocol):
    """The functions of a module that builds engines (`BackendTraits.engines`)."""

    def check_stages(
        self, folder: Path, stages: "Sequence[StageSpec]", *, progress: Progress = NO_PROGRESS
    ) -> str | None:
        """Parse the graphs of the stages with the runtime's own parser.

        Returns None, or the reason if this machine cannot run the parser.

        Raises EngineError that names the stage and the node that the parser refuses.
        """

    def build_missing_engines(self, bundle: "Bundle", *, progress: Progress = NO_PROGRESS) -> bool:
        """Build the engines of the bundle that this machine does not have yet; return whether any was built.

        Raises EngineError for a stage whose engine cannot be built.
        """


def load_backend(traits: BackendTraits) -> StageBackendFactory:
    """Import the class of a backend and return it. Raises ModuleNotFoundError if its runtime is not installed."""
    return cast("StageBackendFactory", resolve_name(traits.backend))


def load_engine_builder(traits: BackendTraits) -> EngineBuilder:
    """Import the module that builds a backend's engines and return it. Raises ValueError if it builds none."""
    if traits.engines is None:
        raise ValueError(f"backend '{traits.name}' builds no engines")
    return cast("EngineBuilder", importlib.import_module(traits.engines))
