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


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device kind, as its TOML file describes it."""

    description: str
    architecture: Literal["x86_64", "aarch64"]
    runtime: Literal["onnxruntime"]
    precisions: Annotated[tuple[Literal["fp32"], ...], msgspec.Meta(min_length=1)]
    """Those that pay on this device, the default first."""
    opset: Annotated[int, msgspec.Meta(ge=13)]
    """ONNX operator set of the stages."""
    session: Session = Session()


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
