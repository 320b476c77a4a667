"""A new backend is one folder and one registry line: the dummy backend of these tests is complete."""

import json
import platform
import sysconfig
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeexit.backends import registry
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, profile_bundle
from edgeexit.targets import load_target
from tests.backends.dummy.engines import engines_folder
from tests.backends.dummy.traits import DUMMY
from tests.cli.conftest import edgeexit  # noqa: F401 - a fixture
from tests.deploy.conftest import device, device_folder, sshd, wheel, write_config  # noqa: F401 - fixtures
from tests.deploy.empty_wheels import make_wheelhouse, write_wheel

ROOT = Path(__file__).parent.parent.parent
TARGET = Path(__file__).parent / "dummy" / "dummy-box.toml"
RUNTIME = f"onnx reference {onnx.__version__}"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Wheels for a device whose Python registers the dummy backend when it starts."""
    folder = make_wheelhouse(tmp_path_factory.mktemp("dummy") / "wheels")
    files = {
        "interpreter_packages.pth": f"{sysconfig.get_paths()['purelib']}\n",
        "register_dummy.pth": f"import sys; sys.path.append({str(ROOT)!r}); import tests.backends.dummy.register\n",
    }
    write_wheel(folder, "numpy", "99.0", files)
    return folder


@pytest.fixture(autouse=True)
def _registered(tmp_path, monkeypatch):
    """Register the backend, and write the target that names it into the user's own folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / TARGET.name).write_text(TARGET.read_text().replace("x86_64", platform.machine()))
    registry.register_backend(DUMMY)
    yield
    del registry._registered[DUMMY.name]


@pytest.fixture
def bundle(tmp_path):
    from edgeexit.compiler import CompileOptions, compile_bundle  # noqa: PLC0415 - torch takes seconds to load
    from tests.compiler.networks import Residual  # noqa: PLC0415

    options = CompileOptions(inputs=["image:batch,1,8,8"], target=TARGET.stem)
    return compile_bundle(Residual(), tmp_path / "bundle", options)


def test_a_bundle_for_the_new_backend_compiles_and_gives_the_golden_logits(bundle):
    golden = bundle.golden()
    never = Confidence(temperatures=(1.0, 1.0), thresholds=(None,))
    with Runner(bundle, fallback=False) as runner:
        assert runner.runtime == RUNTIME
        assert not runner.warnings
        for name, logits in runner.infer_every_exit(golden.inputs).outputs.items():
            np.testing.assert_allclose(logits, golden.exits[name], atol=1e-5)
        result = runner.infer(golden.inputs, policy=never)
    np.testing.assert_array_equal(result.predictions, golden.exits[bundle.manifest.exits[-1]].argmax(axis=1))


def test_samples_exit_early_on_the_new_backend(bundle):
    inputs = {name: np.repeat(array, 4, axis=0) for name, array in bundle.golden().inputs.items()}
    half = Confidence(temperatures=(1.0, 1.0), thresholds=(0.36,))
    with Runner(bundle, fallback=False) as runner:
        readouts = runner.infer_every_exit(inputs).readouts
        exits = runner.infer(inputs, policy=half).exits
    np.testing.assert_array_equal(exits == 0, readouts[:, 0, 1] >= 0.36)


def test_the_new_backend_is_profiled(bundle):
    profile = profile_bundle(bundle, seconds=0.1)
    assert profile.runtime == RUNTIME
    assert [stage.name for stage in profile.stages] == [stage.name for stage in bundle.manifest.stages]
    assert not profile.warnings


def test_the_targets_command_describes_a_target_of_the_new_backend(edgeexit):  # noqa: F811 - the fixture
    assert DUMMY.summary in edgeexit("targets", TARGET.stem).out
    assert load_target(TARGET.stem).backend is DUMMY


def test_the_engines_command_lets_the_new_backend_build(bundle, edgeexit, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert f"{DUMMY.title}: engines built" in edgeexit("engines", "build", bundle.path).out
    stages = [stage.name for stage in bundle.manifest.stages]
    assert sorted(path.name for path in engines_folder(bundle).iterdir()) == stages
    assert json.loads(edgeexit("engines", "build", bundle.path, "--json").out) == {"built": False}
    refused = edgeexit("engines", "build", bundle.path, "--batch", "1,1,8")
    assert refused.code == 2
    assert "--batch is an option for TensorRT plans, but target 'dummy-box' runs on ONNX's reference" in refused.err


def test_an_agent_on_the_new_backend_is_deployed_and_serves(bundle, device, write_config):  # noqa: F811 - the fixtures
    config = write_config()
    assert device.push(bundle, config, dry_run=True).outcome == "planned"
    result = device.push(bundle, config)
    assert result.outcome == "healthy"
    assert device.steps == ["preflight", "copy", "environment", "engines", "switch", "start", "healthy"]
    with urllib.request.urlopen(f"{result.endpoint}/v2/models/{bundle.manifest.model}", timeout=10) as reply:  # noqa: S310 - of this machine
        assert json.load(reply)["versions"] == [bundle.digest]
    assert RUNTIME in (device.root / "agent.log").read_text()
