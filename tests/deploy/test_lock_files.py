"""The shipped lock files fit pyproject.toml: `scripts/lock` was run after the last change of a dependency."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import tomli
from packaging.requirements import Requirement

LOCKS = {
    file.name.removesuffix(".txt"): file.read_text() for file in files("edgeexit.deploy").joinpath("locks").iterdir()
}
PROJECT = tomli.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
NEEDED = {
    "onnxruntime": ["onnxruntime", "endpoint"],
    "tensorrt-rtx": ["tensorrt-rtx", "endpoint"],
    "tensorrt-cuda12": ["endpoint"],
    "tensorrt-cuda13": ["endpoint"],
}
"""Lock file -> extras of edgeexit."""


def pins(lock, python):
    """Return the versions that a lock file names for a Python version on 64-bit Arm."""
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "platform_machine": "aarch64",
        "sys_platform": "linux", "platform_python_implementation": "CPython", "implementation_name": "cpython",
    }  # fmt: skip
    lines = re.findall(r"^[a-z].*?(?= \\$)", LOCKS[lock], re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    found = [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]
    assert len({one.name for one in found}) == len(found)
    return {one.name: str(one.specifier).removeprefix("==") for one in found}


def test_there_is_a_lock_file_for_every_kind_of_target():
    assert set(LOCKS) == set(NEEDED)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", NEEDED)
def test_a_lock_file_pins_what_edgeexit_needs(lock, python):
    found = pins(lock, python)
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(text for extra in NEEDED[lock] for text in extras[extra])]:
        needed = Requirement(text)
        assert found[needed.name] in needed.specifier, f"{text}: run scripts/lock"


@pytest.mark.parametrize("lock", NEEDED)
def test_a_lock_file_has_hashes_and_names_no_index(lock):
    blocks = re.split(r"\n(?=[a-z])", LOCKS[lock])[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in LOCKS[lock]
