"""Empty wheels in place of the packages that edgeexit needs on a device.

The real wheels take long to install, and tests/arm installs them once. An empty wheel has only a package's name and
version. That of numpy also has a .pth file, which adds the packages of the tests' interpreter to the environment.
"""

import base64
import hashlib
import sys
import sysconfig
import zipfile
from pathlib import Path

NEEDED = (
    "numpy",
    "msgspec",
    "paho-mqtt",
    "cryptography",
    "typer",
    "rich",
    "onnxruntime",
    "protobuf",
    "httptools",
    "tomli",
)


def make_wheelhouse(folder: Path) -> Path:
    """Create a folder with empty wheels and return it."""
    folder.mkdir()
    for name in NEEDED:
        files = {"interpreter_packages.pth": f"{sysconfig.get_paths()['purelib']}\n"} if name == "numpy" else {}
        write_wheel(folder, name.replace("-", "_"), "99.0", files)
    return folder


def write_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], scripts: str = "", requires: tuple[str, ...] = ()
) -> Path:
    """Write a pure-Python wheel with these files."""
    information = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Provides-Extra: onnxruntime\nProvides-Extra: endpoint\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in requires),
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        files[f"{information}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items())
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in [*files.items(), (f"{information}/RECORD", f"{record}{information}/RECORD,,\n")]:
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def link_python(programs: Path) -> None:
    """Make the interpreter that runs the tests the Python of the device."""
    (programs / f"python3.{sys.version_info[1]}").symlink_to(sys.executable)
