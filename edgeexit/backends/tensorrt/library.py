"""Opens TensorRT or TensorRT-RTX behind one interface. Only this module imports them and knows how they differ."""

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
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the wheel of the SDK, the wheel of the package index
}
_KEPT_SEVERITIES: Final = frozenset({"INTERNAL_ERROR", "ERROR", "WARNING", "INFO"})
_ERROR_SEVERITIES: Final = frozenset({"INTERNAL_ERROR", "ERROR"})
_NOISE: Final = "[checkMacros"
"""Start of the errors that TensorRT-RTX logs at every step on a machine without a GPU."""
_MAX_MESSAGES: Final = 10_000
"""More than one build logs; the limit bounds the memory on a device that runs for months."""


class TensorRtMessages:
    """The messages that TensorRT logged. With `echo`, each is also written to standard error."""

    def __init__(self) -> None:
        self.echo = False
        self._messages: deque[tuple[str, str]] = deque(maxlen=_MAX_MESSAGES)

    def add(self, severity: str, text: str) -> None:
        """Add a message. Called from TensorRT's threads."""
        if self.echo:
            sys.stderr.write(f"[{severity}] {text}\n")
        if severity in _KEPT_SEVERITIES:
            self._messages.append((severity, text))

    def clear(self) -> None:
        """Delete all messages, before a new operation."""
        self._messages.clear()

    def last_error(self) -> str:
        """Return the first line of the newest error; if there is none, the advice to run with --debug."""
        messages = list(self._messages)  # TensorRT's threads may add messages meanwhile
        errors = [text for severity, text in messages if severity in _ERROR_SEVERITIES and not text.startswith(_NOISE)]
        return errors[-1].splitlines()[0] if errors else "TensorRT gave no reason; run again with --debug"

    def texts(self) -> list[str]:
        """Return the texts of all messages."""
        return [text for _, text in list(self._messages)]


class Library(NamedTuple):
    """A library that builds and runs plans.

    TensorRT 10, 11 and TensorRT-RTX have the same API except for the methods of this class: from 11 on, networks are
    always strongly typed; TensorRT-RTX builds for GPUs of other machines, has no timing cache, and captures CUDA graphs
    by itself.
    """

    name: LibraryName
    version: str
    api: Any
    """The Python module."""
    logger: Any
    """Its ILogger, one per process: TensorRT uses the first one for everything."""
    messages: TensorRtMessages

    @property
    def description(self) -> str:
        """Name and version, e.g. `tensorrt 10.3.0`."""
        return f"{self.name} {self.version}"

    @property
    def ahead_of_time(self) -> tuple[str, ...]:
        """GPUs that it builds for on a machine without them, e.g. SM86; empty if it must time kernels on the GPU."""
        capabilities = getattr(self.api, "ComputeCapability", None)
        return () if capabilities is None else tuple(n for n in capabilities.__members__ if n.startswith("SM"))

    @property
    def keeps_timings(self) -> bool:
        """Whether it has a timing cache, which makes the next build faster."""
        return self.name == "tensorrt"

    def new_builder(self) -> Any:
        """Return a Builder. Raises EngineError if the library needs a GPU for it and finds none."""
        try:
            return self.api.Builder(self.logger)
        except (TypeError, RuntimeError) as error:  # raised by pybind11 for a null pointer
            raise EngineError(
                f"{self.description} does not start: {self.messages.last_error()}; it needs an NVIDIA GPU and driver"
            ) from error

    @property
    def captures_graphs(self) -> bool:
        """Whether its contexts can capture and launch CUDA graphs by themselves."""
        return hasattr(self.api, "CudaGraphStrategy")

    def new_runtime(self, dla_core: int | None) -> Any:
        """Return a Runtime for plans of the GPU or of a DLA core. Raises EngineError if the library does not start."""
        try:
            runtime = self.api.Runtime(self.logger)
        except (TypeError, RuntimeError) as error:  # raised by pybind11 for a null pointer
            raise EngineError(
                f"{self.description} does not start: {self.messages.last_error()}; it needs an NVIDIA GPU and driver"
            ) from error
        if dla_core is not None:
            runtime.DLA_core = dla_core
        return runtime

    def new_kernel_cache(self, engine: Any) -> Any | None:
        """Return the cache of compiled kernels that the contexts of an engine share; None: the plan contains them all.

        The caller must hold a reference to it as long as the contexts exist: TensorRT-RTX holds none.
        """
        return engine.create_runtime_config().create_runtime_cache() if self.captures_graphs else None

    def new_context(self, engine: Any, *, graphs: bool, kernel_cache: Any | None) -> tuple[Any | None, Any]:
        """Return an execution context without scratch memory, and an object that must live as long as the context.

        The context is None if TensorRT refuses. With `graphs`, it captures CUDA graphs by itself if it can.
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

    def set_scratch(self, context: Any, address: int, size: int) -> None:
        """Set the scratch memory that a context uses while it runs."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(address, size)
        else:  # the first versions of TensorRT 10 have no size argument
            context.device_memory = address

    def new_network(self, builder: Any) -> Any:
        """Return an empty strongly typed network."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def set_compute_capability(self, config: Any, sm: str) -> None:
        """Set the GPU to build for, if the library can build for GPUs of other machines."""
        if self.ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.api.ComputeCapability.__members__[sm], 0)


def installed_libraries(first: str = "tensorrt") -> Sequence[Library]:
    """Return the installed libraries, the one named `first` before the other.

    Raises EngineError if none is installed, or if an installed one does not load.
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
            raise EngineError(
                f"{name} is installed but its package '{error.name}' is not; install {name} again"
            ) from error
        except (ImportError, OSError) as error:
            raise EngineError(f"{name} is installed but cannot be imported: {error}; install {name} again") from error
        messages = TensorRtMessages()
        return Library(name, str(api.__version__), api, _make_logger(api, messages), messages)
    return None


def _make_logger(api: Any, messages: TensorRtMessages) -> Any:
    class MessageLogger(api.ILogger):  # type: ignore[misc]
        """Adds every message to `messages`."""

        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.add(severity.name, text)

    return MessageLogger()
