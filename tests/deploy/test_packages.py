"""What an environment is made of: edgeexit's own wheel, the target's packages, and the wheels that fit a device."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgeexit.deploy import packages
from edgeexit.deploy.facts import Interpreter, parse_facts
from edgeexit.deploy.packages import plan_environment
from edgeexit.errors import DeployError
from edgeexit.targets import load_target
from tests.deploy.stand_ins import write_wheel
from tests.deploy.test_facts import PI

PYTHON = Interpreter(program="/usr/bin/python3.11", version=(3, 11), bits=64, modules=("venv", "ensurepip"))


@pytest.fixture
def small(tmp_path):
    return write_wheel(tmp_path, "edgeexit", "0.1.0", {"edgeexit/__init__.py": ""})


def planned(wheel, target="raspberry-pi-5", wheelhouse=None, python=PYTHON, facts=PI):
    return plan_environment(load_target(target), parse_facts(facts), python, wheel, wheelhouse)


def test_the_wheel_that_is_put_together_from_an_installation_is_the_one_that_was_installed(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )
    (installed,) = importlib.metadata.distributions(name="edgeexit", path=[str(site)])
    again = packages._packed(installed, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        names = {name for name in one.namelist() if not name.endswith("/RECORD")}
        assert {name for name in other.namelist() if not name.endswith("/RECORD")} == names
        assert all(one.read(name) == other.read(name) for name in names)
    first = again.read_bytes()
    assert packages._packed(installed, tmp_path).read_bytes() == first


def test_the_scripts_that_a_device_runs_are_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert {"edgeexit/deploy/remote/facts.sh", "edgeexit/deploy/remote/activate.py"} <= set(archive.namelist())


def test_a_target_names_its_packages(small):
    assert planned(small).requirements == ("{wheels}/edgeexit-0.1.0-py3-none-any.whl[onnxruntime,endpoint]",)
    jetson = planned(small, "jetson-orin-nano", facts=PI.replace("cuda=", "cuda=12.6.68"))
    assert jetson.requirements[1] == "cuda-bindings>=12,<13"
    assert jetson.system_packages
    assert not planned(small).system_packages


def test_an_environment_is_another_one_when_anything_that_goes_in_is(small, tmp_path):
    other = write_wheel(tmp_path, "edgeexit", "0.1.1", {"edgeexit/__init__.py": ""})
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "numpy", "2.0", {})
    newer = Interpreter(program="/usr/bin/python3.12", version=(3, 12), bits=64, modules=("venv", "ensurepip"))
    keys = [planned(small), planned(other), planned(small, wheelhouse=wheels), planned(small, python=newer)]
    write_wheel(wheels, "numpy", "2.0", {"numpy/__init__.py": ""})
    keys.append(planned(small, wheelhouse=wheels))
    assert len({one.key for one in keys}) == len(keys)
    assert planned(small).key == keys[0].key


def test_only_wheels_that_fit_the_device_are_sent(small, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    fit = {
        "a-1-py3-none-any.whl", "b-1-py2.py3-none-any.whl", "c-1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "d-1-cp310-abi3-manylinux2014_aarch64.whl", "e-1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl",
    }  # fmt: skip
    other = {
        "c-1-cp311-cp311-manylinux_2_28_x86_64.whl", "c-1-cp310-cp310-manylinux_2_28_aarch64.whl",
        "d-1-cp312-abi3-manylinux2014_aarch64.whl", "f-1-cp311-cp311-win_amd64.whl",
    }  # fmt: skip
    for name in fit | other:
        (wheels / name).write_bytes(b"")
    found = {file.name.removeprefix("wheels/") for file in planned(small, wheelhouse=wheels).wheels}
    assert found == fit | {small.name}


def test_a_wheel_or_wheelhouse_that_will_not_do(small, tmp_path):
    damaged = tmp_path / "edgeexit-9-py3-none-any.whl"
    damaged.write_bytes(small.read_bytes()[:-40])
    with pytest.raises(DeployError, match="cannot be read"):
        planned(damaged)
    flipped = bytearray(small.read_bytes())
    flipped[flipped.index(b"Metadata-Version")] ^= 1
    damaged.write_bytes(flipped)
    with pytest.raises(DeployError, match="is damaged"):
        planned(damaged)
    with pytest.raises(DeployError, match=r"'nope\.whl' does not exist"):
        planned(Path("nope.whl"))
    with pytest.raises(DeployError, match="not named as a wheel"):
        planned(write_wheel(tmp_path, "numpy", "1", {}))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DeployError, match="has no wheels"):
        planned(small, wheelhouse=empty)
    (empty / "c-1-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"")
    with pytest.raises(DeployError, match=r"no wheel for Python 3\.11 on aarch64"):
        planned(small, wheelhouse=empty)
