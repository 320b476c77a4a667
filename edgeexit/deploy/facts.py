"""Parse the facts about a device that `remote/facts.sh` prints, and check that the device can run a bundle."""

import posixpath
import re
from typing import Annotated, Any, Final, Literal

import msgspec

from edgeexit.errors import DeployError
from edgeexit.targets import Target

ServiceManager = Literal["systemd", "user", "process"]
"""`systemd`: the system's systemd; `user`: the user's own; `process`: none, the agent is a plain process."""

OLDEST_PYTHON: Final = (3, 10)
_MARKER: Final = "edgeexit-facts"
"""The facts start after this line; what a login shell prints comes before."""
_CLOCK_TOLERANCE_S: Final = 24 * 3600.0
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_FOLDER: Final = re.compile(r"[\w./@+ -]+")
"""Characters that need no quoting in a shell, in pip, and in the `#!` lines of an environment's programs."""


Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
AbsolutePath = Annotated[str, msgspec.Meta(pattern=r"^/", max_length=4096)]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}\Z")]


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python interpreter of the device."""

    program: AbsolutePath
    version: tuple[Number, Number]
    """Major and minor version."""
    bits: Number
    """Size of a pointer: 32 or 64."""
    modules: tuple[str, ...]
    """Those of `venv`, `ensurepip` and the target's system module that it can import."""


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a device that a deployment checks before it writes anything."""

    machine: Text
    """Architecture, as in `Target.architecture`: `x86_64`, `aarch64`, ..."""
    user: Text
    uid: Number
    folder: AbsolutePath
    """The folder to deploy to."""
    writable: bool
    """The user may write to the folder or create it."""
    time: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    """The device's clock, in seconds since 1970."""
    service_managers: tuple[ServiceManager, ...]
    """The service managers that the device offers, the preferred one first."""
    cuda: Version | None
    """Version of CUDA, or None if it is not installed."""
    pythons: tuple[Interpreter, ...]
    """The newest first."""


def parse_facts(text: str) -> DeviceFacts:
    """Parse the output of `remote/facts.sh`. Raises DeployError if a line is missing, or a value is impossible."""
    fields: dict[str, str] = {}
    pythons: list[str] = []
    for line in text.rpartition(f"{_MARKER}\n")[2].splitlines():
        key, _, value = line.partition("=")
        if key == "python":
            pythons.append(value)
        else:
            fields[key] = value
    service_managers: list[ServiceManager] = ["process"]
    if "systemd_user" in fields:
        service_managers.insert(0, "user")
    if "systemd" in fields:
        service_managers.insert(0, "systemd")
    try:
        facts = {
            "machine": _MACHINES.get(fields["machine"].lower(), fields["machine"].lower()),
            "user": fields["user"],
            "uid": fields["uid"],
            "folder": posixpath.normpath(fields["folder"]),
            "writable": "writable" in fields,
            "time": fields["time"],
            "service_managers": service_managers,
            "cuda": fields.get("cuda") or None,
            "pythons": list({python["program"]: python for python in map(_interpreter, pythons)}.values()),
        }
        return msgspec.convert(facts, DeviceFacts, strict=False)
    except (KeyError, ValueError) as error:
        raise DeployError(
            f"the device did not report all facts (missing or invalid: {error}); it needs a POSIX shell and coreutils"
        ) from error


def choose_python(facts: DeviceFacts, target_name: str, target: Target) -> Interpreter:
    """Return the interpreter to deploy with. Raises DeployError if the device cannot run bundles of the target."""
    if facts.machine != target.architecture:
        raise DeployError(
            f"the device is {facts.machine}, target '{target_name}' is {target.architecture}; compile the bundle for a "
            f"target of {facts.machine} (`edgeexit targets` lists them)"
        )
    recent = [python for python in facts.pythons if python.version >= OLDEST_PYTHON]
    if not recent:
        found = ", ".join(".".join(map(str, python.version)) for python in facts.pythons) or "none"
        raise DeployError(f"the device needs Python 3.10 or newer; found: {found}")
    on_64_bits = [python for python in recent if python.bits == 64]  # noqa: PLR2004 - bits
    if not on_64_bits:
        raise DeployError("the device's Python is a 32-bit program; install a 64-bit operating system")
    complete = [python for python in on_64_bits if {"venv", "ensurepip"} <= set(python.modules)]
    if not complete:
        version = ".".join(map(str, on_64_bits[0].version))
        raise DeployError(
            f"Python {version} of the device cannot create environments; run on the device: "
            f"sudo apt-get install python{version}-venv"
        )
    module = target.backend.system_module
    suitable = [python for python in complete if not module or module in python.modules]
    if not suitable:
        programs = ", ".join(python.program for python in complete)
        raise DeployError(
            f"target '{target_name}' needs the system's Python module {module}, and {programs} cannot import "
            f"it; {target.backend.system_module_advice}"
        )
    return suitable[0]


def choose_service_manager(facts: DeviceFacts, wanted: Literal["auto"] | ServiceManager) -> ServiceManager:
    """Return the service manager for the agent. Raises DeployError if the device does not offer the wanted one."""
    if wanted == "auto":
        return facts.service_managers[0]
    if wanted not in facts.service_managers:
        reasons = {
            "systemd": "needs systemd on the device, and root or sudo without a password",
            "user": "needs a systemd user instance on the device",
        }
        raise DeployError(
            f"--service {wanted} {reasons[wanted]}; this device offers {', '.join(facts.service_managers)}"
        )
    return wanted


def check_folder(facts: DeviceFacts) -> None:
    """Raise DeployError if the folder's name or its permissions do not allow a deployment."""
    if not _FOLDER.fullmatch(facts.folder):
        raise DeployError(
            f"folder '{facts.folder}' on the device cannot contain a Python environment; give a --path of letters, "
            "digits, spaces and . _ / @ + -"
        )
    if not facts.writable:
        raise DeployError(f"user '{facts.user}' may not write to '{facts.folder}' on the device; give another --path")


def clock_error_s(facts: DeviceFacts, now: float) -> float | None:
    """Return the error of the device's clock in seconds (positive: it is fast) if it exceeds 24 h, else None.

    With such an error, the device may reject valid TLS certificates. `now` is in seconds since 1970.
    """
    error = facts.time - now
    return error if abs(error) > _CLOCK_TOLERANCE_S else None


def _interpreter(text: str) -> dict[str, Any]:
    version, bits, modules, program = text.split("|", 3)
    return {
        "program": program,
        "version": version.split("."),
        "bits": bits,
        "modules": list(filter(None, modules.split(","))),
    }
