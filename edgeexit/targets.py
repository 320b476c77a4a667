"""Find and read targets: one TOML file a device kind, the user's own folder first, then those shipped."""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgeexit.errors import TargetError

USER_FOLDER: Final = Path("targets")
_SHIPPED: Final = Path(__file__).parent / "shipped_targets"
_CHECKOUT: Final = Path(__file__).parent.parent / "targets"

_GENERIC: Final = {"x86_64": "x86-cpu", "amd64": "x86-cpu", "aarch64": "arm64-cpu", "arm64": "arm64-cpu"}


class Session(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the runtime is to be opened."""

    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Threads inside an operator; 0: one a core."""
    spinning: bool = False
    """Idle threads spin; off, because several stages in a row then disturb each other."""


class Nvidia(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TensorRT has to know of an NVIDIA part."""

    sm: Annotated[str, msgspec.Meta(pattern=r"^SM[0-9]{2,3}\Z")]
    """Compute capability, e.g. SM87."""
    jetpack: dict[str, str] = {}
    """JetPack release -> its TensorRT; empty on a desktop."""
    dla_cores: Annotated[int, msgspec.Meta(ge=0)] = 0
    workspace_mb: Annotated[int, msgspec.Meta(ge=1)]
    """Most scratch memory that TensorRT may take while it builds and runs."""
    batch: tuple[int, int, int] = (1, 1, 32)
    """Least, optimal and most samples of a batch."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device kind, as its TOML file describes it."""

    description: str
    architecture: Literal["x86_64", "aarch64"]
    runtime: Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
    precisions: Annotated[tuple[Literal["fp32", "fp16", "int8"], ...], msgspec.Meta(min_length=1)]
    """Those that pay on this device, the one to start with first."""
    opset: Annotated[int, msgspec.Meta(ge=13)]
    """ONNX operator set of the stages."""
    python: str = "3.10"
    """Version that the device's system ships."""
    memory_mb: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of the whole device, GPU included where they share; null: any."""
    telemetry: Literal["none", "jetson", "raspberry-pi"] = "none"
    """Where clocks, power and temperature are read."""
    notes: str = ""
    """What somebody who chooses this target should know."""
    session: Session = Session()
    nvidia: Nvidia | None = None
    """Null: no NVIDIA part."""


def load_target(name: str) -> Target:
    """Return the target of that name. Raises TargetError: unknown, unreadable, or a wrong field."""
    for path in _files():
        if path.stem == name:
            return _read(path)
    raise TargetError(f"target '{name}' is unknown; there are {', '.join(sorted(list_targets()))}")


def list_targets() -> dict[str, Path]:
    """Return every target's name and file, the user's own before those shipped."""
    found: dict[str, Path] = {}
    for path in _files():
        found.setdefault(path.stem, path)
    return found


def host_target() -> str:
    """Return the generic target of this machine. Raises TargetError on an architecture without one."""
    machine = platform.machine().lower()
    if machine not in _GENERIC:
        raise TargetError(f"no generic target for architecture '{machine}'; name one with --target")
    return _GENERIC[machine]


def _files() -> Iterator[Path]:
    shipped = _SHIPPED if _SHIPPED.is_dir() else _CHECKOUT
    for folder in (USER_FOLDER, shipped):
        yield from sorted(folder.glob("*.toml"))


def _read(path: Path) -> Target:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Target)
    except OSError as error:
        raise TargetError(f"target file '{path}' cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise TargetError(f"target file '{path}': {error}") from error
