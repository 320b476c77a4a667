"""Finds and reads targets: one TOML file per device kind, in the user's own folder or shipped with the package."""

import difflib
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgeexit.backends.registry import BACKENDS
from edgeexit.backends.traits import BackendTraits
from edgeexit.errors import TargetError
from edgeexit.toml_document import FieldError, TomlError, decode_toml

USER_FOLDER: Final = Path("targets")
_SHIPPED: Final = Path(__file__).parent / "shipped_targets"
_CHECKOUT: Final = Path(__file__).parent.parent / "targets"

_GENERIC: Final = {"x86_64": "x86-cpu", "amd64": "x86-cpu", "aarch64": "arm64-cpu", "arm64": "arm64-cpu"}
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+){1,3}")


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of ONNX Runtime's sessions."""

    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Threads per operator; 0: one per core."""
    provider: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]+ExecutionProvider\Z")] = "CPUExecutionProvider"
    """Execution provider; operators that it does not support run on the CPU."""
    spinning: bool = False
    """Idle threads spin. Off by default: stages run one after the other, and spinning threads slow down the next."""


class Nvidia(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TensorRT needs to know about an NVIDIA GPU."""

    sm: Annotated[
        str, msgspec.Meta(pattern=r"^SM[0-9]{2,3}\Z", description='the compute capability, such as "SM87" for 8.7')
    ]
    """Compute capability, e.g. SM87."""
    jetpack: dict[str, str] = {}
    """JetPack release -> its TensorRT version; empty on a desktop."""
    dla_cores: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Number of deep learning accelerators (DLAs)."""
    workspace_mb: Annotated[int, msgspec.Meta(ge=1)]
    """Max scratch memory of TensorRT, for building and running."""
    batch: tuple[int, int, int] = (1, 1, 32)
    """Min, optimal and max batch size."""

    def __post_init__(self) -> None:
        """Raise FieldError for an unordered batch range and for malformed versions."""
        smallest, optimal, largest = self.batch
        if not 1 <= smallest <= optimal <= largest:
            raise FieldError("must be ordered: min, optimal, max, each at least 1", "batch")
        for release, tensorrt in self.jetpack.items():
            if not (_VERSION.fullmatch(release) and _VERSION.fullmatch(tensorrt)):
                raise FieldError(
                    'must map a JetPack release to its TensorRT version, as in "6.2" = "10.3"', "jetpack", release
                )


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device kind, as its TOML file describes it."""

    description: str
    architecture: Literal["x86_64", "aarch64"]
    runtime: str
    """Name of the backend that runs the stages, a key of `edgeexit.backends.registry.BACKENDS`."""
    precisions: Annotated[tuple[Literal["fp32", "fp16", "int8"], ...], msgspec.Meta(min_length=1)]
    """Precisions that are worth trying on this device, the recommended one first."""
    opset: Annotated[int, msgspec.Meta(ge=13)]
    """Newest ONNX operator set of the stages."""
    python: Annotated[str, msgspec.Meta(pattern=r"^3\.[0-9]{1,2}\Z", description='a version such as "3.10"')] = "3.10"
    """Python version of the device's operating system."""
    memory_mb: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Memory of the smallest variant of the device, including the GPU if both share it; null: not specified."""
    telemetry: Literal["none", "jetson", "raspberry-pi"] = "none"
    """Source of clocks, power and temperature."""
    notes: str = ""
    """Notes for users who choose this target."""
    session: SessionConfig = SessionConfig()
    nvidia: Nvidia | None = None
    """Null: no NVIDIA GPU. For information only, if the backend does not use the GPU."""

    def __post_init__(self) -> None:
        """Raise FieldError for an unknown backend, a missing table [nvidia] and a repeated precision."""
        backend = BACKENDS.get(self.runtime)
        if backend is None:
            raise FieldError(f"is not a known backend; {_suggest(self.runtime, BACKENDS)}", "runtime")
        if backend.requires_nvidia and self.nvidia is None:
            raise FieldError("builds plans, so the file needs a table [nvidia] with sm and workspace_mb", "runtime")
        if len(set(self.precisions)) < len(self.precisions):
            raise FieldError("names a precision twice", "precisions")

    @property
    def backend(self) -> BackendTraits:
        """Return the traits of the backend that `runtime` names."""
        return BACKENDS[self.runtime]


def load_target(name: str) -> Target:
    """Return the target `name`. Raises TargetError for an unknown name and for a file that is unreadable or invalid."""
    known = list_targets()
    if name not in known:
        raise TargetError(
            f"target '{name}' is unknown; {_suggest(name, known)}; to add it, write ./{USER_FOLDER}/{name}.toml"
        )
    return _read(known[name])


def list_targets() -> dict[str, Path]:
    """Return the name and file of every target; the user's files take precedence over the shipped ones."""
    found: dict[str, Path] = {}
    for path in _files():
        found.setdefault(path.stem, path)
    return found


def is_users_own(path: Path) -> bool:
    """Return whether a file of `list_targets` is in the user's folder."""
    return path.parent == USER_FOLDER


def host_target() -> str:
    """Return the name of this machine's generic target. Raises TargetError for an architecture without one."""
    machine = platform.machine().lower()
    if machine not in _GENERIC:
        raise TargetError(f"architecture '{machine}' has no generic target; name a target with --target")
    return _GENERIC[machine]


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"known: {', '.join(sorted(known))}"


def _files() -> Iterator[Path]:
    shipped = _SHIPPED if _SHIPPED.is_dir() else _CHECKOUT
    if USER_FOLDER.resolve() != shipped.resolve():  # in the root of a checkout, both are the same folder
        yield from sorted(USER_FOLDER.glob("*.toml"))
    yield from sorted(shipped.glob("*.toml"))


def _read(path: Path) -> Target:
    try:
        return decode_toml(path.read_bytes(), Target)
    except OSError as error:
        raise TargetError(f"target file '{path}' cannot be read: {error.strerror}") from error
    except TomlError as error:
        place = "" if error.line is None else f", line {error.line}"
        raise TargetError(f"target file '{path}'{place}: {error}") from error
