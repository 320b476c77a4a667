"""The step `environment` installs only files whose SHA-256 is known, with the pip of this Python."""

import hashlib
import os
import subprocess

import pytest

from edgeexit.deploy.remote.environment import main
from edgeexit.deploy.remote.layout import StepError
from tests.deploy.empty_wheels import write_wheel


@pytest.fixture
def root(tmp_path):
    """The folder of a deployment with the wheels of edgeexit and of numpy; its name needs quoting in URLs."""
    wheels = tmp_path / "my device" / "wheels"
    wheels.mkdir(parents=True)
    write_wheel(wheels, "edgeexit", "0.1.0", {"edgeexit/__init__.py": "import numpy"}, requires=("numpy>=1",))
    write_wheel(wheels, "numpy", "99.0", {"numpy/__init__.py": ""})
    return tmp_path / "my device"


def install(root, numpy=""):
    """Run the step; `numpy` replaces the right SHA-256 of its wheel."""
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (root / "wheels").iterdir()}
    own, other = sorted(hashes)
    lines = [
        f"edgeexit[endpoint] @ {{wheels}}/{own} --hash=sha256:{hashes[own]}",
        f"numpy==99.0 --hash=sha256:{numpy or hashes[other]}",
    ]
    return main(root, {
        "key": "a", "requirements": lines, "hashed": True, "offline": True, "wheels": hashes,
        "system_packages": False, "probes": ["import edgeexit"],
    })  # fmt: skip


def test_packages_with_the_right_hashes_are_installed(root):
    assert install(root) == {"created": True}
    assert install(root) == {"created": False}
    python = root / "venvs" / "a" / "bin" / "python"
    assert subprocess.run([python, "-c", "import edgeexit"], check=False).returncode == 0


def test_a_package_with_another_hash_is_refused(root):
    with pytest.raises(StepError, match="DO NOT MATCH THE HASHES"):
        install(root, numpy="0" * 64)
    assert not (root / "venvs" / "a").exists()


def test_a_wheel_that_changed_on_the_disk_of_the_device_is_not_installed(root):
    wheel = root / "wheels" / "numpy-99.0-py3-none-any.whl"
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (root / "wheels").iterdir()}
    with wheel.open("ab") as file:
        file.write(os.urandom(4))
    with pytest.raises(StepError, match=r"numpy-99\.0-py3-none-any\.whl' has changed since it was copied"):
        main(root, {
            "key": "b", "requirements": [], "hashed": False, "offline": True, "wheels": hashes,
            "system_packages": False, "probes": [],
        })  # fmt: skip


def test_temporary_files_of_the_installation_are_on_the_disk_of_the_deployment(root, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", small]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        monkeypatch.setenv("TMPDIR", str(small))
        assert install(root) == {"created": True}
        assert not (root / "venvs" / "a" / "tmp").exists()
    finally:
        subprocess.run(["umount", small], check=True)
