"""What a backend declares about itself, so that other rooms need neither its name nor its code."""

from typing import Literal

import msgspec


class BackendTraits(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the compiler, the deployment and the CLI need to know about a backend without importing it."""

    name: str
    """The value of `runtime` in a target file."""
    title: str
    """Name in messages, e.g. `ONNX Runtime`."""
    summary: str
    """One line for `edgeexit targets NAME`: which runtime runs the stages, and in which form."""
    backend: str
    """`module:class` of the backend. The class implements `StageBackend`, its constructor `StageBackendFactory`."""

    engines: str | None = None
    """Module with the functions of `EngineBuilder`; None: the backend runs the ONNX graphs of the stages directly."""
    builds_ahead_of_time: bool = False
    """Engines can be built on a machine without the GPU; otherwise they are built on the device."""
    requires_nvidia: bool = False
    """A target of this backend must have the table [nvidia]."""
    uses_session: bool = False
    """The backend reads the table [session] of the target."""

    qdq_placement: Literal["around", "before"] = "before"
    """Position of the Q/DQ pairs in int8 graphs. `before`: before each matmul and conv. `around`: also behind convs."""
    blocked_layout: bool = False
    """On x86-64, the runtime stores feature maps of float32 convs in blocks of channels (NCHWc). The compiler then adds
    nodes that restore this layout after a cut."""

    extra: str = ""
    """Extra of the `edgeexit` package that installs the runtime; empty: the runtime needs no extra."""
    system_module: str = ""
    """Python module of the runtime that must be installed with the device's operating system, because it has no wheel
    for the device. A deployment then does not install the extra. Empty: there is no such module."""
    system_module_advice: str = ""
    """How to install the system module."""
    cuda_bindings: bool = False
    """The device needs `cuda-bindings` of its CUDA major version."""
    probe_modules: tuple[str, ...]
    """Modules that a deployment imports in the environment of the agent, to check that the runtime is installed."""
    device_access: Literal["none", "gpu"] = "none"
    """Device files that the systemd unit of a deployed agent may open."""
    start_timeout_s: float = 60.0
    """Max time from the start of a deployed agent until it serves."""

    @property
    def builds_engines(self) -> bool:
        """Return whether engines are built from the stages before the backend can run them."""
        return self.engines is not None
