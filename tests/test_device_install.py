"""The base install on a device: built as a wheel, in an environment of its own, and light."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_bundle

ROOT = Path(__file__).parent.parent

ALLOWED = {
    # what the design names, and what those bring along
    "edgeexit": "", "numpy": "", "msgspec": "", "paho-mqtt": "", "cryptography": "", "typer": "", "rich": "", "tomli": "",
    "cffi": "cryptography", "pycparser": "cryptography", "typing-extensions": "cryptography",
    "annotated-doc": "typer", "shellingham": "typer", "click": "typer",
    "pydantic": "typer", "pydantic-core": "typer", "annotated-types": "typer", "typing-inspection": "typer",
    "markdown-it-py": "rich", "mdurl": "rich", "pygments": "rich",
}  # fmt: skip

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
    """An interpreter that has the built wheel and nothing else."""
    folder = tmp_path_factory.mktemp("device")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, *pip[1:], "install", wheel], check=True)
    return python


def test_the_agent_imports_where_nothing_heavy_is_installed(device, tmp_path):
    result = subprocess.run([device, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["installed"] == []
    assert found["loaded"] == []
    assert {"x86-cpu", "arm64-cpu"} <= set(found["targets"])


def test_the_base_install_brings_nothing_unexpected(device):
    listed = subprocess.run(
        [device, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {entry["name"].lower().replace("_", "-") for entry in json.loads(listed.stdout)} - {"pip", "setuptools"}
    assert names - set(ALLOWED) == set()


def test_the_command_line_starts_and_says_which_extra_is_missing(device, tmp_path):
    program = device.parent / "edgeexit"
    assert subprocess.run([program, "targets"], capture_output=True, check=False).returncode == 0
    missing = subprocess.run(
        [program, "compile", "m.onnx", "--out", "b"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "extra" in missing.stderr
    assert len(missing.stderr.strip().splitlines()) == 1


def test_a_bundle_is_inspected_and_drawn_and_engines_say_what_they_need(device, tmp_path):
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


def test_onnxruntime_keeps_no_record_of_its_use(tmp_path):
    """Unlike when it is imported alone: it writes a device identity and a database."""
    places = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    code = "import edgeexit.backends.onnxruntime.backend"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not any(tmp_path.iterdir())
