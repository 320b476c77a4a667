"""The packages of a device's Python environment: edgeexit's own wheel, the backend's packages, a wheelhouse."""

import base64
import csv
import hashlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import msgspec

from edgeexit.deploy.facts import DeviceFacts, Interpreter
from edgeexit.deploy.lock_files import read_lock, shipped_lock
from edgeexit.deploy.payload import PayloadFile, local_file
from edgeexit.errors import DeployError
from edgeexit.targets import Target

_FIXED_TIME: Final = (2020, 1, 1, 0, 0, 0)
_EXCLUDED: Final = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}
_MIN_NAME_PARTS: Final = 5
"""Parts of a wheel's file name: name, version, and the tags for Python, ABI and platform."""
_INSTALLED_FACTOR: Final = 5
"""Estimated ratio of the installed size, with bytecode, to the size of the wheels.

Measured: 4.3 (54 MiB of wheels, 234 MiB installed)."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The Python environment that a release needs."""

    key: str
    """Hash of everything that defines the environment."""
    python: str
    """Path of the device's Python."""
    requirements: tuple[str, ...]
    """Lines of the requirements file for pip; `{wheels}` stands for the URL of the folder with the wheels."""
    hashed: bool
    """The lines pin every package by version and SHA-256; pip refuses every other file."""
    wheels: tuple[PayloadFile, ...]
    """The wheel of edgeexit, then those of the wheelhouse."""
    offline: bool
    """All packages come from the wheelhouse; no package index is used."""
    system_packages: bool
    """The environment can import the packages of the system's Python, for example JetPack's `tensorrt`."""
    probes: tuple[str, ...]
    """Python statements that must succeed in the environment."""


def plan_environment(
    target: Target,
    facts: DeviceFacts,
    python: Interpreter,
    wheel: Path,
    wheelhouse: Path | None,
    *,
    lock: Path | None = None,
    allow_unhashed: bool = False,
) -> Environment:
    """Return the environment for bundles of a target.

    Args:
        target: the target.
        facts: the device.
        python: its Python.
        wheel: the wheel of edgeexit.
        wheelhouse: folder with all other wheels; the device accepts only these files, by SHA-256.
        lock: requirements with hashes; default: the shipped ones, unless there is a wheelhouse.
        allow_unhashed: without a wheelhouse and `lock`, let the device choose versions from its index.

    Raises DeployError if `wheel` is not a valid wheel of edgeexit, if `wheelhouse` has no wheel for the device, if
    `lock` is not valid, or if no lock file is shipped for the target and hashes are required.

    """
    own = _wheel_file(wheel)
    backend = target.backend
    extras = ",".join([*([backend.extra] if backend.extra and not backend.system_module else []), "endpoint"])
    major = int(facts.cuda.split(".")[0]) if facts.cuda else None
    pinned = read_lock(lock) if lock is not None else None
    if pinned is None and wheelhouse is None and not allow_unhashed:
        pinned = shipped_lock(backend, major)
        if pinned is None:
            raise DeployError(
                f"edgeexit has no lock file for {backend.title}, CUDA {facts.cuda or '?'}; give one with --lock, or "
                "the wheels with --wheelhouse, or accept any package of the device's index with --allow-unhashed"
            )
    requirements = [f"edgeexit[{extras}] @ {{wheels}}/{quote(wheel.name)}"]
    if pinned is not None:
        requirements = [f"{requirements[0]} --hash=sha256:{own.sha256}", *pinned.splitlines()]
    elif backend.cuda_bindings:
        requirements.append("cuda-bindings>=12" if major is None else f"cuda-bindings>={major},<{major + 1}")
        requirements.append("protobuf>=4.25")  # reads the graphs; the extra that names it is not installed on a JetPack
    wheels = [] if wheelhouse is None else _compatible_wheels(wheelhouse, facts.machine, python, exclude=wheel.name)
    parts = [
        own.sha256, *requirements, python.program, ".".join(map(str, python.version)),
        *(f"{file.name} {file.sha256}" for file in wheels),
    ]  # fmt: skip
    return Environment(
        key=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        python=python.program,
        requirements=tuple(requirements),
        hashed=pinned is not None,
        wheels=(own, *wheels),
        offline=wheelhouse is not None,
        system_packages=bool(backend.system_module),
        probes=(f"import {', '.join(['edgeexit.agent', *backend.probe_modules])}",),
    )


def installed_bytes(environment: Environment, index_bytes: int) -> int:
    """Return an estimate of an environment's size on disk, in bytes.

    `index_bytes` is the size of the wheels that the device downloads if the environment is not offline.
    """
    wheels = sum(file.size for file in environment.wheels)
    return _INSTALLED_FACTOR * (wheels if environment.offline else wheels + index_bytes)


def find_wheel(folder: Path) -> Path:
    """Create the wheel of the edgeexit that runs now in `folder`; the same files give the same bytes.

    From a checkout, pip builds the wheel. From an installed package, the wheel is packed from the files that its
    RECORD lists, so that the device gets exactly this version and no package index is needed. Raises DeployError if
    the wheel cannot be created.
    """
    distribution = importlib.metadata.distribution("edgeexit")
    source = _checkout_folder(distribution)
    return _pack_installed(distribution, folder) if source is None else _build_from_checkout(source, folder)


def _checkout_folder(distribution: importlib.metadata.Distribution) -> Path | None:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlsplit(str(origin["url"])).path))
    folder = Path(__file__).parent.parent.parent  # edgeexit runs from a checkout without being installed
    return folder if (folder / "pyproject.toml").is_file() else None


def _build_from_checkout(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run(  # noqa: S603 - pip of this interpreter, on its own checkout
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("edgeexit-*.whl"))
    if result.returncode or not wheels:
        errors = result.stderr.strip().splitlines()
        raise DeployError(
            f"the wheel of edgeexit cannot be built from '{source}': {errors[-1] if errors else 'pip failed'}; "
            "give one with --wheel"
        )
    return wheels[0]


def _pack_installed(distribution: importlib.metadata.Distribution, folder: Path) -> Path:
    """Pack an installed pure-Python distribution into a wheel.

    It equals the wheel that was installed, except that the lines of RECORD may have another order.
    """
    packed: dict[str, bytes] = {}
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts or file.name in _EXCLUDED:
            continue
        content = Path(str(file.locate())).read_bytes()
        if file.hash is not None and file.hash.mode == "sha256" and file.hash.value != _record_digest(content):
            raise DeployError(f"the installed file '{file}' of edgeexit has changed; give its wheel with --wheel")
        packed[file.as_posix()] = content
    information = next((name.rsplit("/", 1)[0] for name in packed if name.endswith(".dist-info/METADATA")), None)
    if information is None:
        raise DeployError("this edgeexit is not installed as a package; give its wheel with --wheel")
    record = io.StringIO()
    table = csv.writer(record, lineterminator="\n")
    for name, content in sorted(packed.items()):
        table.writerow((name, f"sha256={_record_digest(content)}", len(content)))
    table.writerow((f"{information}/RECORD", "", ""))
    wheel = folder / f"edgeexit-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*sorted(packed.items()), (f"{information}/RECORD", record.getvalue().encode())]:
            entry = zipfile.ZipInfo(name, _FIXED_TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return wheel


def _record_digest(content: bytes) -> str:
    """Return a SHA-256 as in the RECORD of a wheel."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _wheel_file(wheel: Path) -> PayloadFile:
    """Check the wheel of edgeexit and return it. Raises DeployError if it is not valid."""
    if not wheel.exists():
        raise DeployError(f"wheel '{wheel}' does not exist; give a wheel of edgeexit, or omit --wheel and it is built")
    if not re.fullmatch(r"edgeexit-[^-]+(-[^-]+)?-[^-]+-[^-]+-[^-]+\.whl", wheel.name):
        raise DeployError(
            f"'{wheel}' is not a wheel of edgeexit: expected a file name like edgeexit-VERSION-py3-none-any.whl"
        )
    file = local_file(f"wheels/{wheel.name}", wheel.parent, wheel.name)
    assert file.source is not None  # noqa: S101 - `local_file` opens it
    try:
        with file.source.open() as opened, zipfile.ZipFile(opened) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DeployError(f"wheel '{wheel}' cannot be read: {error}; build it again") from error
    if damaged is not None or "edgeexit/__init__.py" not in names:
        raise DeployError(f"wheel '{wheel}' is damaged ({damaged or 'it does not contain edgeexit'}); build it again")
    return file


def _compatible_wheels(folder: Path, machine: str, python: Interpreter, *, exclude: str) -> list[PayloadFile]:
    wheels = [file for file in sorted(folder.glob("*.whl")) if file.name != exclude]
    if not wheels:
        raise DeployError(f"wheelhouse '{folder}' has no wheels; fill it with `pip download` for the device")
    suitable = [file for file in wheels if _is_compatible(file.name, machine, python.version)]
    if not suitable:
        version = ".".join(map(str, python.version))
        raise DeployError(
            f"wheelhouse '{folder}' has no wheel for Python {version} on {machine}; fill it with `pip download` for "
            "this device"
        )
    return [
        local_file(f"wheels/{file.name}", folder, file.name)
        for file in suitable
        if not file.name.startswith("edgeexit-")
    ]


def _is_compatible(name: str, machine: str, version: tuple[int, int]) -> bool:
    """Return True if the tags in a wheel's name match the device. Of several such wheels, pip chooses one."""
    parts = name.removesuffix(".whl").split("-")
    if len(parts) < _MIN_NAME_PARTS:
        return False
    pythons, abis, platforms = parts[-3:]
    if not any(platform == "any" or platform.endswith(f"_{machine}") for platform in platforms.split(".")):
        return False
    for tag in pythons.split("."):
        match = re.fullmatch(r"(py|cp)(\d)(\d*)", tag)
        if match is None or int(match[2]) != version[0]:
            continue
        minor = int(match[3] or 0)
        if minor == version[1] or ((match[1] == "py" or "abi3" in abis.split(".")) and minor <= version[1]):
            return True
    return False
