"""The packages of an environment: the wheel of edgeexit itself, what the target names, and a wheelhouse."""

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
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from edgeexit.deploy.facts import Facts, Interpreter
from edgeexit.deploy.payload import PayloadFile, local_file
from edgeexit.errors import DeployError
from edgeexit.targets import Target

_EXTRAS: Final = {
    "onnxruntime": ("onnxruntime", "endpoint"),
    "tensorrt": ("endpoint",),
    "tensorrt_rtx": ("tensorrt-rtx", "endpoint"),
}
_PROBES: Final = {
    "onnxruntime": "import edgeexit.agent, onnxruntime",
    "tensorrt": "import edgeexit.agent, tensorrt, cuda.bindings",
    "tensorrt_rtx": "import edgeexit.agent, tensorrt_rtx_bindings, cuda.bindings",
}
_FIXED_TIME: Final = (2020, 1, 1, 0, 0, 0)
_LEFT_OUT: Final = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}
_UNPACKED: Final = 5
"""Bytes that a wheel's byte takes once installed, with its compiled Python; measured: 4.3, from 54 MiB to 234 MiB."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that a release needs, by what goes into it."""

    key: str
    python: str
    requirements: tuple[str, ...]
    """What pip is told to install; `{wheels}` stands for the folder of the wheels there."""
    wheels: tuple[PayloadFile, ...]
    offline: bool
    """Whether everything comes from the wheelhouse."""
    system_packages: bool
    """Whether it sees the packages of the device's system, where TensorRT is a part of that."""
    probes: tuple[str, ...]
    """Programs of one line that have to run in it."""


def plan_environment(
    target: Target, facts: Facts, python: Interpreter, wheel: Path, wheelhouse: Path | None
) -> Environment:
    """Return what a device needs to run bundles of a target. Raises DeployError for a bad wheel or wheelhouse."""
    own = _wheel_file(wheel)
    extras = ",".join(_EXTRAS[target.runtime])
    requirements = [f"{{wheels}}/{wheel.name}[{extras}]"]
    if target.runtime == "tensorrt":
        major = int(facts.cuda.split(".")[0]) if facts.cuda else None
        requirements.append("cuda-bindings>=12" if major is None else f"cuda-bindings>={major},<{major + 1}")
    found = [] if wheelhouse is None else _fitting_wheels(wheelhouse, facts.machine, python, besides=wheel.name)
    words = [
        own.sha256, *requirements, python.program, ".".join(map(str, python.version)),
        *(f"{file.name} {file.sha256}" for file in found),
    ]  # fmt: skip
    return Environment(
        key=hashlib.sha256("\n".join(words).encode()).hexdigest()[:16],
        python=python.program,
        requirements=tuple(requirements),
        wheels=(own, *found),
        offline=wheelhouse is not None,
        system_packages=target.runtime == "tensorrt",
        probes=(_PROBES[target.runtime],),
    )


def room_for(environment: Environment, index_bytes: int) -> int:
    """Return an estimate of what an environment takes on disk; `index_bytes` of wheels where an index gives them."""
    wheels = sum(file.size for file in environment.wheels)
    return _UNPACKED * (wheels if environment.offline else wheels + index_bytes)


def find_wheel(folder: Path) -> Path:
    """Make the wheel of the edgeexit that runs here, in `folder`; the same files give the same bytes.

    From a checkout it is built; from an installed edgeexit it is put together again from the files that its RECORD
    names, so that the device gets exactly what runs here and no index is asked.
    """
    distribution = importlib.metadata.distribution("edgeexit")
    source = _checkout(distribution)
    return _packed(distribution, folder) if source is None else _built(source, folder)


def _checkout(distribution: importlib.metadata.Distribution) -> Path | None:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlsplit(str(origin["url"])).path))
    beside = Path(__file__).parent.parent.parent  # started from a checkout that is not installed
    return beside if (beside / "pyproject.toml").is_file() else None


def _built(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run(  # noqa: S603 - pip of this interpreter, on its own checkout
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("edgeexit-*.whl"))
    if result.returncode or not wheels:
        said = result.stderr.strip().splitlines()
        raise DeployError(
            f"the wheel of edgeexit cannot be built from '{source}': {said[-1] if said else 'pip failed'}; "
            "give one with --wheel"
        )
    return wheels[0]


def _packed(distribution: importlib.metadata.Distribution, folder: Path) -> Path:
    """Write an installed pure distribution as the wheel that it came from; only RECORD's order may differ."""
    packed: dict[str, bytes] = {}
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts or file.name in _LEFT_OUT:
            continue
        packed[file.as_posix()] = Path(str(file.locate())).read_bytes()
    information = next((name.rsplit("/", 1)[0] for name in packed if name.endswith(".dist-info/METADATA")), None)
    if information is None:
        raise DeployError("this edgeexit is not installed as a package; give its wheel with --wheel")
    record = io.StringIO()
    table = csv.writer(record, lineterminator="\n")
    for name, content in sorted(packed.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        table.writerow((name, f"sha256={digest}", len(content)))
    table.writerow((f"{information}/RECORD", "", ""))
    wheel = folder / f"edgeexit-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*sorted(packed.items()), (f"{information}/RECORD", record.getvalue().encode())]:
            entry = zipfile.ZipInfo(name, _FIXED_TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return wheel


def _wheel_file(wheel: Path) -> PayloadFile:
    """Return edgeexit's wheel. Raises DeployError where it is none."""
    if not wheel.is_file():
        raise DeployError(f"wheel '{wheel}' does not exist; give edgeexit's, or leave --wheel out to have it made")
    if not re.fullmatch(r"edgeexit-[^-]+(-[^-]+)?-[^-]+-[^-]+-[^-]+\.whl", wheel.name):
        raise DeployError(f"'{wheel}' is not named as a wheel of edgeexit (edgeexit-VERSION-py3-none-any.whl)")
    try:
        with zipfile.ZipFile(wheel) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DeployError(f"wheel '{wheel}' cannot be read: {error}") from error
    if damaged is not None or "edgeexit/__init__.py" not in names:
        raise DeployError(f"wheel '{wheel}' is damaged ({damaged or 'edgeexit is not in it'}); build it again")
    return local_file(f"wheels/{wheel.name}", wheel)


def _fitting_wheels(folder: Path, machine: str, python: Interpreter, *, besides: str) -> list[PayloadFile]:
    wheels = [file for file in sorted(folder.glob("*.whl")) if file.name != besides]
    if not wheels:
        raise DeployError(f"wheelhouse '{folder}' has no wheels; fill it with `pip download` for the device")
    fit = [file for file in wheels if _fits(file.name, machine, python.version)]
    if not fit:
        version = ".".join(map(str, python.version))
        raise DeployError(f"wheelhouse '{folder}' has no wheel for Python {version} on {machine}")
    return [local_file(f"wheels/{file.name}", file) for file in fit if not file.name.startswith("edgeexit-")]


def _fits(name: str, machine: str, version: tuple[int, int]) -> bool:
    """Return whether a wheel's name says that it may be for a machine; which of several is best is for pip to say."""
    pythons, abis, platforms = name.removesuffix(".whl").split("-")[-3:]
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
