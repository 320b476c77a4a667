"""What a device is, as `remote/facts.sh` found it, and whether a bundle can run there."""

import posixpath
import re
from typing import Final, Literal

import msgspec

from edgeexit.errors import DeployError
from edgeexit.targets import Target

Supervisor = Literal["systemd", "user", "process"]
"""`systemd`: the system's; `user`: the user's own; `process`: none, the agent is a plain process."""

_OLDEST_PYTHON: Final = (3, 10)
_CLOCK_TOLERANCE_S: Final = 24 * 3600.0
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_FOLDER: Final = re.compile(r"[\w./@+ -]+")
"""What neither a shell nor pip takes for something else, as the first lines of an environment's programs have it."""
_SYSTEM_MODULES: Final = {"tensorrt": "tensorrt"}
"""Runtime -> the module that the device's system brings for it."""


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python of the device."""

    program: str
    version: tuple[int, int]
    bits: int
    modules: tuple[str, ...]
    """Those that were looked for and are there."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A device, before anything is written on it."""

    machine: str
    user: str
    uid: int
    folder: str
    """Where to deploy to, absolute."""
    free_kib: int
    writable: bool
    time: float
    """The device's clock, in seconds since 1970."""
    supervisors: tuple[Supervisor, ...]
    """Those that can be had, the best first."""
    cuda: str | None
    pythons: tuple[Interpreter, ...]
    """Newest first."""


def wanted_module(target: Target) -> str:
    """Return the module that a target's runtime needs from the device's system, or an empty name."""
    return _SYSTEM_MODULES.get(target.runtime, "")


def parse_facts(text: str) -> Facts:
    """Read the lines of `remote/facts.sh`. Raises DeployError where they are not all there."""
    fields: dict[str, str] = {}
    pythons = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "python":
            pythons.append(_interpreter(value))
        else:
            fields[key] = value
    supervisors: list[Supervisor] = ["process"]
    if "systemd_user" in fields:
        supervisors.insert(0, "user")
    if "systemd" in fields:
        supervisors.insert(0, "systemd")
    try:
        return Facts(
            machine=_MACHINES.get(fields["machine"].lower(), fields["machine"].lower()),
            user=fields["user"],
            uid=int(fields["uid"]),
            folder=posixpath.normpath(fields["folder"]),
            free_kib=int(fields["free_kib"]),
            writable="writable" in fields,
            time=float(fields["time"]),
            supervisors=tuple(supervisors),
            cuda=fields.get("cuda") or None,
            pythons=tuple({python.program: python for python in pythons}.values()),
        )
    except (KeyError, ValueError) as error:
        raise DeployError(
            f"the device does not say what it is ({error}); it needs a POSIX shell and coreutils"
        ) from error


def choose_python(facts: Facts, target_name: str, target: Target) -> Interpreter:
    """Return the interpreter to deploy with. Raises DeployError where the device cannot run the target's bundles."""
    if facts.machine != target.architecture:
        raise DeployError(
            f"the device is {facts.machine}, target '{target_name}' is {target.architecture}; compile the bundle for a "
            "target of the device (`edgeexit targets`)"
        )
    fit = [python for python in facts.pythons if python.version >= _OLDEST_PYTHON]
    if not fit:
        found = ", ".join(".".join(map(str, python.version)) for python in facts.pythons) or "none"
        raise DeployError(f"the device needs Python 3.10 or newer; found: {found}")
    wide = [python for python in fit if python.bits == 64]  # noqa: PLR2004 - bits
    if not wide:
        raise DeployError("the device's Python has 32 bits; install a system with 64-bit programs")
    complete = [python for python in wide if {"venv", "ensurepip"} <= set(python.modules)]
    if not complete:
        version = ".".join(map(str, wide[0].version))
        raise DeployError(
            f"Python {version} of the device cannot make environments; run there: "
            f"sudo apt-get install python{version}-venv"
        )
    module = wanted_module(target)
    able = [python for python in complete if not module or module in python.modules]
    if not able:
        programs = ", ".join(python.program for python in complete)
        raise DeployError(
            f"target '{target_name}' needs the module {module} of the device's system, and {programs} cannot "
            "import it; on a Jetson run `sudo apt-get install python3-libnvinfer` there"
        )
    return able[0]


def choose_supervisor(facts: Facts, wanted: Literal["auto"] | Supervisor) -> Supervisor:
    """Return what is to supervise the agent. Raises DeployError where the device does not have it."""
    if wanted == "auto":
        return facts.supervisors[0]
    if wanted not in facts.supervisors:
        reasons = {
            "systemd": "needs systemd there, and root or sudo without a password",
            "user": "needs a systemd of the user there",
        }
        raise DeployError(f"--service {wanted} {reasons[wanted]}; this device offers {', '.join(facts.supervisors)}")
    return wanted


def check_room(facts: Facts, needed_bytes: int) -> None:
    """Raise DeployError where the folder is none for programs, cannot be written to, or has too little room."""
    if not _FOLDER.fullmatch(facts.folder):
        raise DeployError(
            f"folder '{facts.folder}' of the device cannot hold an environment; give a --path of letters, digits, "
            "spaces and . _ / @ + -"
        )
    if not facts.writable:
        raise DeployError(f"user '{facts.user}' may not write to '{facts.folder}' on the device; give another --path")
    if facts.free_kib * 1024 < needed_bytes:
        raise DeployError(
            f"'{facts.folder}' on the device needs {needed_bytes / 2**20:.0f} MiB free and has "
            f"{facts.free_kib / 2**10:.0f} MiB; make room or give another --path"
        )


def clock_error_s(facts: Facts, now: float) -> float | None:
    """Return by how much the device's clock is off, where that is so much that certificates will not be believed."""
    error = facts.time - now
    return error if abs(error) > _CLOCK_TOLERANCE_S else None


def _interpreter(text: str) -> Interpreter:
    version, bits, modules, program = text.split("|", 3)
    major, minor = version.split(".")
    return Interpreter(
        program=program,
        version=(int(major), int(minor)),
        bits=int(bits),
        modules=tuple(filter(None, modules.split(","))),
    )
