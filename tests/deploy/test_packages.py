"""The packages of an environment: edgeexit's own wheel, the backend's packages, and the wheels for a device."""

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
from tests.deploy.empty_wheels import write_wheel
from tests.deploy.test_facts import PI

PYTHON = Interpreter(program="/usr/bin/python3.11", version=(3, 11), bits=64, modules=("venv", "ensurepip"))


@pytest.fixture
def small(tmp_path):
    return write_wheel(tmp_path, "edgeexit", "0.1.0", {"edgeexit/__init__.py": ""})


def plan(wheel, target="raspberry-pi-5", wheelhouse=None, python=PYTHON, facts=PI, **options):
    return plan_environment(load_target(target), parse_facts(facts), python, wheel, wheelhouse, **options)


def test_the_wheel_packed_from_an_installation_equals_the_installed_wheel(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )
    (installed,) = importlib.metadata.distributions(name="edgeexit", path=[str(site)])
    again = packages._pack_installed(installed, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        names = {name for name in one.namelist() if not name.endswith("/RECORD")}
        assert {name for name in other.namelist() if not name.endswith("/RECORD")} == names
        assert all(one.read(name) == other.read(name) for name in names)
    first = again.read_bytes()
    assert packages._pack_installed(installed, tmp_path).read_bytes() == first


def test_the_wheel_contains_the_scripts_for_the_device(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert {"edgeexit/deploy/remote/facts.sh", "edgeexit/deploy/remote/activate.py"} <= set(archive.namelist())


def test_the_requirements_follow_from_the_target(small):
    own = "edgeexit[onnxruntime,endpoint] @ {wheels}/edgeexit-0.1.0-py3-none-any.whl"
    assert plan(small, allow_unhashed=True).requirements == (own,)
    jetson = plan(small, "jetson-orin-nano", facts=PI.replace("cuda=", "cuda=12.6.68"), allow_unhashed=True)
    assert jetson.requirements[1] == "cuda-bindings>=12,<13"
    assert jetson.system_packages
    assert not plan(small).system_packages


def test_without_a_wheelhouse_every_package_has_a_version_and_a_hash(small):
    pinned = plan(small)
    assert pinned.hashed
    assert pinned.requirements[0].endswith(f" --hash=sha256:{pinned.wheels[0].sha256}")
    assert any(line.startswith("onnxruntime==") for line in pinned.requirements)
    jetson = plan(small, "jetson-orin-nano", facts=PI.replace("cuda=", "cuda=12.6.68"))
    assert any(line.startswith("cuda-bindings==12.") for line in jetson.requirements)
    assert not any(line.startswith("onnxruntime==") for line in jetson.requirements)
    with pytest.raises(DeployError, match=r"no lock file for TensorRT, CUDA 11\.4; give one with --lock"):
        plan(small, "jetson-orin-nano", facts=PI.replace("cuda=", "cuda=11.4"))
    assert not plan(small, "jetson-orin-nano", facts=PI.replace("cuda=", "cuda=11.4"), allow_unhashed=True).hashed


def test_a_lock_file_of_the_user_replaces_the_shipped_one(small, tmp_path):
    lock = tmp_path / "lock.txt"
    digest = "0" * 64
    lock.write_text(f"# of our own index\nnumpy==2.0 \\\n    --hash=sha256:{digest} \\\n    --hash=sha256:{digest}\n")
    pinned = plan(small, lock=lock)
    assert pinned.hashed
    assert pinned.requirements[1:] == tuple(lock.read_text().splitlines())
    assert pinned.key != plan(small).key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy==2.0\n", "line 1: 'numpy==2.0' has no --hash"),
        (f"a==1 --hash=sha256:{'0' * 64}\nb==1 \\\n  --hash=md5:0\n", "line 2: 'b==1"),
        ("a==1 --hash=sha256:0\n", "line 1"),
        (f"a==1 # --hash=sha256:{'0' * 64}\n", "line 1"),
        ("--index-url x\n", "line 1: '--index-url' is an option"),
        ("-r other.txt\n", "line 1: '-r' is an option"),
        (b"\xff", "not text"),
        (None, "cannot be read"),
    ],
)
def test_a_lock_file_with_an_option_or_without_hashes_is_refused(small, tmp_path, text, expected):
    lock = tmp_path / "lock.txt"
    if text is not None:
        lock.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DeployError, match=expected):
        plan(small, lock=lock)


def test_any_other_wheel_or_python_gives_another_environment(small, tmp_path):
    other = write_wheel(tmp_path, "edgeexit", "0.1.1", {"edgeexit/__init__.py": ""})
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "numpy", "2.0", {})
    newer = Interpreter(program="/usr/bin/python3.12", version=(3, 12), bits=64, modules=("venv", "ensurepip"))
    keys = [plan(small), plan(other), plan(small, wheelhouse=wheels), plan(small, python=newer)]
    write_wheel(wheels, "numpy", "2.0", {"numpy/__init__.py": ""})
    keys.append(plan(small, wheelhouse=wheels))
    assert len({one.key for one in keys}) == len(keys)
    assert plan(small).key == keys[0].key


def test_only_wheels_that_fit_the_device_are_sent(small, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    fit = {
        "a-1-py3-none-any.whl", "b-1-py2.py3-none-any.whl", "c-1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "d-1-cp310-abi3-manylinux2014_aarch64.whl", "e-1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl",
    }  # fmt: skip
    other = {
        "c-1-cp311-cp311-manylinux_2_28_x86_64.whl", "c-1-cp310-cp310-manylinux_2_28_aarch64.whl",
        "d-1-cp312-abi3-manylinux2014_aarch64.whl", "f-1-cp311-cp311-win_amd64.whl", "x.whl", "-rf.whl", "$(id).whl",
    }  # fmt: skip
    for name in fit | other:
        (wheels / name).write_bytes(b"")
    found = {file.name.removeprefix("wheels/") for file in plan(small, wheelhouse=wheels).wheels}
    assert found == fit | {small.name}


def test_an_unsuitable_wheel_or_wheelhouse_is_refused(small, tmp_path):
    damaged = tmp_path / "edgeexit-9-py3-none-any.whl"
    damaged.write_bytes(small.read_bytes()[:-40])
    with pytest.raises(DeployError, match="cannot be read"):
        plan(damaged)
    flipped = bytearray(small.read_bytes())
    flipped[flipped.index(b"Metadata-Version")] ^= 1
    damaged.write_bytes(flipped)
    with pytest.raises(DeployError, match="is damaged"):
        plan(damaged)
    with pytest.raises(DeployError, match=r"'nope\.whl' does not exist"):
        plan(Path("nope.whl"))
    with pytest.raises(DeployError, match="is not a wheel of edgeexit"):
        plan(write_wheel(tmp_path, "numpy", "1", {}))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DeployError, match="has no wheels"):
        plan(small, wheelhouse=empty)
    (empty / "c-1-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"")
    with pytest.raises(DeployError, match=r"no wheel for Python 3\.11 on aarch64"):
        plan(small, wheelhouse=empty)
