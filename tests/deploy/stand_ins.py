"""Wheels for a test's device: edgeexit's own, and empty ones in place of the packages that it needs.

Installing the real ones takes long and shows nothing of a deployment; tests/arm does it once. An empty wheel has a
package's name and version, and one of them lets the environment see the packages of the tests' interpreter.
"""

import base64
import hashlib
import sys
import sysconfig
import zipfile
from pathlib import Path

NEEDED = ("numpy", "msgspec", "paho-mqtt", "cryptography", "typer", "rich", "onnxruntime", "tornado", "tomli")


def wheelhouse(folder: Path) -> Path:
    """Fill a folder with empty wheels; the one of numpy brings the path of this interpreter's packages."""
    folder.mkdir()
    for name in NEEDED:
        files = {"stand_ins.pth": f"{sysconfig.get_paths()['purelib']}\n"} if name == "numpy" else {}
        write_wheel(folder, name.replace("-", "_"), "99.0", files)
    return folder


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str], scripts: str = "") -> Path:
    """Write a wheel of pure Python."""
    information = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Provides-Extra: onnxruntime\nProvides-Extra: endpoint\n",
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
    """Let a device's Python be the one that runs the tests, whose packages its environments see."""
    (programs / f"python3.{sys.version_info[1]}").symlink_to(sys.executable)
