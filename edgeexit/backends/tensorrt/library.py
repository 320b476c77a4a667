"""Opens TensorRT or TensorRT-RTX under the same words: the one place that imports them or knows how they differ."""

import functools
import importlib
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from edgeexit.errors import EngineError

LibraryName = Literal["tensorrt", "tensorrt_rtx"]

_MODULES: Final[dict[LibraryName, tuple[str, ...]]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the SDK's wheel, the registry's wheels
}
_KEPT: Final = frozenset({"INTERNAL_ERROR", "ERROR", "WARNING", "INFO"})
_ERRORS: Final = frozenset({"INTERNAL_ERROR", "ERROR"})
_NOISE: Final = "[checkMacros"
"""Begins the complaints that TensorRT-RTX adds to every step where there is no GPU."""
_LINES: Final = 10_000
"""Kept of what TensorRT says: more than a build says, and no more than a device that runs for months can hold."""


class Journal:
    """What TensorRT had to say; `echo` passes it on to standard error as it comes."""

    def __init__(self) -> None:
        self.echo = False
        self._lines: deque[tuple[str, str]] = deque(maxlen=_LINES)

    def add(self, severity: str, text: str) -> None:
        """Take a message; called from TensorRT's threads."""
        if self.echo:
            sys.stderr.write(f"[{severity}] {text}\n")
        if severity in _KEPT:
            self._lines.append((severity, text))

    def clear(self) -> None:
        """Forget everything, before a new piece of work."""
        self._lines.clear()

    def why(self) -> str:
        """Return the first line of the newest error that says something, or that there was none."""
        lines = list(self._lines)  # TensorRT's threads go on adding
        errors = [text for severity, text in lines if severity in _ERRORS and not text.startswith(_NOISE)]
        return errors[-1].splitlines()[0] if errors else "TensorRT gave no reason; run again with --debug"

    def lines(self) -> list[str]:
        """Return every message that was kept."""
        return [text for _, text in list(self._lines)]


class Library(NamedTuple):
    """A library that builds and runs plans.

    TensorRT 10, 11 and TensorRT-RTX are called alike but for what stands here: since 11 networks are always strongly
    typed; TensorRT-RTX builds for GPUs that are not here, keeps no timings, and captures CUDA graphs by itself.
    """

    name: LibraryName
    version: str
    api: Any
    """The Python module."""
    log: Any
    """Its ILogger; TensorRT keeps the first that a process gives it, so there is one."""
    journal: Journal

    @property
    def description(self) -> str:
        """Name and version, e.g. `tensorrt 10.3.0`."""
        return f"{self.name} {self.version}"

    @property
    def ahead_of_time(self) -> tuple[str, ...]:
        """GPUs that it builds for without one of them here, e.g. SM86; empty where it times kernels on the GPU."""
        capabilities = getattr(self.api, "ComputeCapability", None)
        return () if capabilities is None else tuple(n for n in capabilities.__members__ if n.startswith("SM"))

    @property
    def keeps_timings(self) -> bool:
        """Whether a timing cache makes the next build quicker."""
        return self.name == "tensorrt"

    def new_builder(self) -> Any:
        """Return a Builder. Raises EngineError where there is none to be had without a GPU."""
        try:
            return self.api.Builder(self.log)
        except (TypeError, RuntimeError) as error:  # pybind11's words for a null pointer
            raise EngineError(
                f"{self.description} does not start: {self.journal.why()}; it needs an NVIDIA GPU and its driver"
            ) from error

    @property
    def captures_graphs(self) -> bool:
        """Whether its contexts capture and launch CUDA graphs by themselves, where they are told to."""
        return hasattr(self.api, "CudaGraphStrategy")

    def new_runtime(self, dla_core: int | None) -> Any:
        """Return a Runtime for plans of the GPU or a DLA core. Raises EngineError where there is none to be had."""
        try:
            runtime = self.api.Runtime(self.log)
        except (TypeError, RuntimeError) as error:  # pybind11's words for a null pointer
            raise EngineError(
                f"{self.description} does not start: {self.journal.why()}; it needs an NVIDIA GPU and its driver"
            ) from error
        if dla_core is not None:
            runtime.DLA_core = dla_core
        return runtime

    def new_kernel_cache(self, engine: Any) -> Any | None:
        """Return what the contexts of an engine share of compiled kernels, or None where all of that is in the plan.

        It must outlive them: TensorRT-RTX does not keep it alive.
        """
        return engine.create_runtime_config().create_runtime_cache() if self.captures_graphs else None

    def new_context(self, engine: Any, *, graphs: bool, kernel_cache: Any | None) -> tuple[Any | None, Any]:
        """Return an execution context without scratch memory, None where TensorRT refuses, and what must outlive it.

        With `graphs`, it captures CUDA graphs by itself where it can.
        """
        strategy = self.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self.captures_graphs:
            return engine.create_execution_context(strategy), None
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.set_runtime_cache(kernel_cache)
        choices = self.api.CudaGraphStrategy
        config.cuda_graph_strategy = choices.WHOLE_GRAPH_CAPTURE if graphs else choices.DISABLED
        return engine.create_execution_context(config), config

    def lend_scratch(self, context: Any, address: int, size: int) -> None:
        """Give a context the memory that it may use while it runs."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(address, size)
        else:  # the first versions of TensorRT 10 take the size for granted
            context.device_memory = address

    def new_network(self, builder: Any) -> Any:
        """Return an empty strongly typed network."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def aim_at(self, config: Any, sm: str) -> None:
        """Say which GPU to build for, where that need not be the one that is here."""
        if self.ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.api.ComputeCapability.__members__[sm], 0)


def installed_libraries(first: str = "tensorrt") -> Sequence[Library]:
    """Return the libraries that are installed, the one named `first` before the other.

    Raises EngineError where there is none, or where one is installed and does not load.
    """
    names: list[LibraryName] = sorted(_MODULES, key=lambda name: (name != first, name))
    found = [library for library in map(_open, names) if library is not None]
    if not found:
        raise EngineError(
            "neither tensorrt nor tensorrt_rtx is installed; install edgeexit[tensorrt] on the device, or "
            "edgeexit[tensorrt-rtx] to build for desktop GPUs"
        )
    return found


@functools.cache
def _open(name: LibraryName) -> Library | None:
    for module in _MODULES[name]:
        try:
            api = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == module:
                continue
            raise EngineError(f"{name} is installed but needs the package '{error.name}'; install it again") from error
        except (ImportError, OSError) as error:
            raise EngineError(f"{name} is installed but does not load: {error}; install it again") from error
        journal = Journal()
        return Library(name, str(api.__version__), api, _make_log(api, journal), journal)
    return None


def _make_log(api: Any, journal: Journal) -> Any:
    class Log(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            journal.add(severity.name, text)

    return Log()
