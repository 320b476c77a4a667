"""The base installation on a device: the wheel, in a new environment, with few dependencies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_bundle

ROOT = Path(__file__).parent.parent

ALLOWED = {
    "edgeexit": "", "numpy": "", "msgspec": "", "paho-mqtt": "", "cryptography": "", "tomli": "", "typer": "",
    "rich": "", "cffi": "cryptography", "pycparser": "cryptography", "typing-extensions": "cryptography",
    "annotated-doc": "typer", "shellingham": "typer", "click": "typer",
    "pydantic": "typer", "pydantic-core": "typer", "annotated-types": "typer", "typing-inspection": "typer",
    "markdown-it-py": "rich", "mdurl": "rich", "pygments": "rich",
}  # fmt: skip
"""Package -> the package that depends on it; "": a dependency of edgeexit."""

PROBE = """
import importlib.util, json, sys
import edgeexit.agent
from edgeexit.targets import list_targets
heavy = ["torch", "onnx", "onnx_ir", "scipy", "sqlalchemy", "fastapi", "sklearn", "plotly", "iotcore"]
print(json.dumps({
    "installed": [name for name in heavy if importlib.util.find_spec(name)],
    "loaded": sorted(name for name in ("typer", "rich", "onnxruntime", "edgeexit_calibration") if name in sys.modules),
    "targets": sorted(list_targets()),
}))
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """Return the Python of an environment in which only the built wheel is installed."""
    folder = tmp_path_factory.mktemp("device")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, *pip[1:], "install", wheel], check=True)
    return python


def test_the_agent_can_be_imported_without_heavy_packages(device, tmp_path):
    result = subprocess.run([device, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["installed"] == []
    assert found["loaded"] == []
    assert {"x86-cpu", "arm64-cpu"} <= set(found["targets"])


def test_the_base_installation_has_only_the_allowed_packages(device):
    listed = subprocess.run(
        [device, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {entry["name"].lower().replace("_", "-") for entry in json.loads(listed.stdout)} - {"pip", "setuptools"}
    assert names - set(ALLOWED) == set()


def test_the_command_line_names_the_extra_that_is_missing(device, tmp_path):
    program = device.parent / "edgeexit"
    assert subprocess.run([program, "targets"], capture_output=True, check=False).returncode == 0
    missing = subprocess.run(
        [program, "compile", "m.onnx", "--out", "b"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "extra" in missing.stderr
    assert len(missing.stderr.strip().splitlines()) == 1


def test_inspect_draws_a_bundle_and_engines_build_names_the_missing_extra(device, tmp_path):
    program = device.parent / "edgeexit"
    bundle = make_bundle(tmp_path / "bundle", target="jetson-orin-nano").path
    page = tmp_path / "stages.html"
    drawn = subprocess.run([program, "inspect", bundle, "--plot", page], capture_output=True, text=True, check=True)
    assert str(page) in drawn.stdout + drawn.stderr
    assert "<svg" in page.read_text()
    refused = subprocess.run([program, "engines", "build", bundle], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "edgeexit[tensorrt]" in line


def test_onnxruntime_writes_no_telemetry_files(tmp_path):
    """ONNX Runtime alone writes a device identity and a database; importing edgeexit first prevents this."""
    places = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    code = "import edgeexit.backends.onnxruntime.backend"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not any(tmp_path.iterdir())
