"""Find and read targets: one TOML file a device kind, the user's own folder first, then those shipped."""

import difflib
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgeexit.errors import TargetError
from edgeexit.toml_document import FieldError, TomlError, decode_toml

USER_FOLDER: Final = Path("targets")
_SHIPPED: Final = Path(__file__).parent / "shipped_targets"
_CHECKOUT: Final = Path(__file__).parent.parent / "targets"

_GENERIC: Final = {"x86_64": "x86-cpu", "amd64": "x86-cpu", "aarch64": "arm64-cpu", "arm64": "arm64-cpu"}
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+){1,3}")
_PLANS: Final = ("tensorrt", "tensorrt_rtx")


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How ONNX Runtime is to be opened."""

    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Threads inside an operator; 0: one a core."""
    provider: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]+ExecutionProvider\Z")] = "CPUExecutionProvider"
    """ONNX Runtime's execution provider; what it does not take runs on the CPU."""
    spinning: bool = False
    """Idle threads spin; off, because several stages in a row then disturb each other."""


class Nvidia(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TensorRT has to know of an NVIDIA part."""

    sm: Annotated[
        str, msgspec.Meta(pattern=r"^SM[0-9]{2,3}\Z", description='the compute capability, such as "SM87" for 8.7')
    ]
    """Compute capability, e.g. SM87."""
    jetpack: dict[str, str] = {}
    """JetPack release -> its TensorRT; empty on a desktop."""
    dla_cores: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Deep learning accelerators beside the GPU."""
    workspace_mb: Annotated[int, msgspec.Meta(ge=1)]
    """Most scratch memory that TensorRT may take while it builds and runs."""
    batch: tuple[int, int, int] = (1, 1, 32)
    """Least, optimal and most samples of a batch."""

    def __post_init__(self) -> None:
        """Refuse a disordered batch range and what does not look like a version (FieldError)."""
        least, optimal, most = self.batch
        if not 1 <= least <= optimal <= most:
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
    runtime: Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
    precisions: Annotated[tuple[Literal["fp32", "fp16", "int8"], ...], msgspec.Meta(min_length=1)]
    """Those that pay on this device, the one to start with first."""
    opset: Annotated[int, msgspec.Meta(ge=13)]
    """Newest ONNX operator set of the stages."""
    python: Annotated[str, msgspec.Meta(pattern=r"^3\.[0-9]{1,2}\Z", description='a version such as "3.10"')] = "3.10"
    """Version that the device's system ships."""
    memory_mb: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of the smallest variant of the device, GPU included where they share; null: any."""
    telemetry: Literal["none", "jetson", "raspberry-pi"] = "none"
    """Where clocks, power and temperature are read."""
    notes: str = ""
    """What somebody who chooses this target should know."""
    session: SessionConfig = SessionConfig()
    nvidia: Nvidia | None = None
    """Null: no NVIDIA part. On ONNX Runtime it is for information."""

    def __post_init__(self) -> None:
        """Refuse a runtime that builds plans without the part to build them for, and a precision given twice."""
        if self.runtime in _PLANS and self.nvidia is None:
            raise FieldError("builds plans, so the file needs a table [nvidia] with sm and workspace_mb", "runtime")
        if len(set(self.precisions)) < len(self.precisions):
            raise FieldError("names a precision twice", "precisions")


def load_target(name: str) -> Target:
    """Return the target of that name. Raises TargetError: unknown, unreadable, or a wrong field with its line."""
    known = list_targets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise TargetError(
            f"target '{name}' is unknown; {hint}there are {', '.join(sorted(known))}; one of your own is read from "
            f"./{USER_FOLDER}/{name}.toml"
        )
    return _read(known[name])


def list_targets() -> dict[str, Path]:
    """Return every target's name and file, the user's own before those shipped; no file is read."""
    found: dict[str, Path] = {}
    for path in _files():
        found.setdefault(path.stem, path)
    return found


def is_users_own(path: Path) -> bool:
    """Return whether a file of `list_targets` is from the user's folder, and so goes before a shipped one."""
    return path.parent == USER_FOLDER


def host_target() -> str:
    """Return the generic target of this machine. Raises TargetError on an architecture without one."""
    machine = platform.machine().lower()
    if machine not in _GENERIC:
        raise TargetError(f"no generic target for architecture '{machine}'; name one with --target")
    return _GENERIC[machine]


def _files() -> Iterator[Path]:
    shipped = _SHIPPED if _SHIPPED.is_dir() else _CHECKOUT
    if USER_FOLDER.resolve() != shipped.resolve():  # in a checkout's own folder they are the same
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
