"""The extension point of the backends: the traits that a backend declares, and the protocols that it implements."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle
    from edgeexit.bundle.manifest import StageSpec
    from edgeexit.targets import Target

ALLOW_FALLBACK: Final = "allow fallback (in agent.toml, fallback = true)"
"""The advice of every error that ends a run because the target's own backend does not work on this machine."""

Rows = npt.NDArray[np.intp]
"""Indices of the rows of a batch."""


class BackendTraits(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the compiler, the deployment and the CLI need to know about a backend without importing it."""

    name: str
    """The value of `runtime` in a target file."""
    title: str
    """Name for people, e.g. `ONNX Runtime`."""
    summary: str
    """What runs the stages, as `edgeexit targets NAME` prints it."""
    backend: str
    """`module:class` of the `StageBackend`, called as `StageBackendFactory`."""

    engines: str | None = None
    """Module with the functions of `EngineBuilder`; None: the backend opens the stages' ONNX graphs as they are."""
    builds_ahead_of_time: bool = False
    """Engines can be built on a machine without the GPU; otherwise they are built on the device."""
    requires_nvidia: bool = False
    """A target needs the table [nvidia]."""
    uses_session: bool = False
    """The backend reads the target's table [session]."""

    qdq_placement: Literal["around", "before"] = "before"
    """Position of the Q/DQ pairs in int8 graphs: before each matmul or conv, or behind convolutions as well."""
    blocked_layout: bool = False
    """On x86-64, float32 convolutions use a blocked layout (NCHWc), which the compiler keeps across a cut."""

    extra: str = ""
    """Extra of the `edgeexit` package that installs the runtime; empty: it needs no other package."""
    system_module: str = ""
    """Python module of the runtime that the device's system has to bring, because no wheel does; empty: none. The
    extra is then not installed on the device."""
    system_module_advice: str = ""
    """How to install the system module."""
    cuda_bindings: bool = False
    """The device needs `cuda-bindings` of its CUDA major version."""
    probe_modules: tuple[str, ...]
    """Modules that have to import in the environment of a deployed agent."""
    device_access: Literal["none", "gpu"] = "none"
    """Device files that the agent's systemd unit leaves open."""
    start_timeout_s: float = 60.0
    """How long a deployed agent may take until it serves."""

    @property
    def builds_engines(self) -> bool:
        """Return whether engines are built from the stages before the backend can run them."""
        return self.engines is not None

    def load_backend(self) -> "StageBackendFactory":
        """Import the backend's class and return it. Raises ModuleNotFoundError if its runtime is not installed."""
        return cast("StageBackendFactory", resolve_name(self.backend))

    def load_engines(self) -> "EngineBuilder":
        """Import the module that builds this backend's engines and return it. Requires `builds_engines`."""
        assert self.engines is not None  # noqa: S101 - the caller has checked builds_engines
        return cast("EngineBuilder", importlib.import_module(self.engines))


class StagedBatch(Protocol):
    """A batch of samples that runs through the stages one by one. The backend keeps the tensors that later stages read.

    A context manager that frees the batch's memory. Arrays that it returns are valid until then. Used by one thread at
    a time.
    """

    def run(self, temperature: float) -> npt.NDArray[np.float32]:
        """Run the next stage and return its readout [B, 4], or [B, 4 + C] if the batch began with `probabilities`.

        Raises InferenceError if the runtime refuses.
        """

    def outputs(self) -> npt.NDArray[np.float32]:
        """Return the raw outputs [B, C] or [B, C, H, W] of the stage that ran last."""

    def select_rows(self, rows: Rows) -> None:
        """Continue with these rows only, in this order: row i of the batch becomes what was row rows[i].

        Where rows[i] != i, rows[i] >= len(rows): only rows beyond the new end move, into the gaps of the samples that
        have exited.
        """

    def join(self, other: "StagedBatch") -> None:
        """Append the samples of another batch and close that batch.

        Both batches are of one backend, have run the same stages, and have the same dimensions except for the batch.
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
        """Differences from what the target names, complete once the backend is open; empty: there are none."""

    @property
    def max_batch(self) -> int:
        """Largest batch that `begin` and `join` accept."""

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> StagedBatch:
        """Start a batch from arrays [B, ...] of every model input. The caller has checked them; they are copied.

        Raises InferenceError while the backend is not open.
        """

    def __enter__(self) -> "StageBackend":
        """Open every stage. Raises BundleError, TargetError or EngineError with the stage or runtime and the reason."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release everything that the stages hold."""


class StageBackendFactory(Protocol):
    """How the class of a backend is called."""

    def __call__(self, bundle: "Bundle", target: "Target", *, fallback: bool) -> StageBackend:
        """Return a backend for a bundle, not open yet. `fallback`: it may differ from what the target names.

        Raises TargetError or EngineError if the runtime does not start on this machine.
        """


class EngineBuilder(Protocol):
    """The functions of a module that builds engines (`BackendTraits.engines`)."""

    def check_stages(
        self, folder: Path, stages: "Sequence[StageSpec]", *, progress: Progress = NO_PROGRESS
    ) -> str | None:
        """Let the runtime's own parser read the stages' graphs; return why that was not possible here, or None.

        Raises EngineError that names the stage and the node that the parser refuses.
        """

    def build_missing_engines(self, bundle: "Bundle", *, progress: Progress = NO_PROGRESS) -> bool:
        """Build the engines that this machine needs for the bundle and does not have; return whether any was built.

        Raises EngineError for a stage that cannot be built.
        """
