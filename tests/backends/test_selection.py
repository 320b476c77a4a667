"""The choice of the backend, with and without the fallback."""

import platform

import onnxruntime as ort
import pytest

from edgeexit.backends import registry
from edgeexit.backends.traits import BackendTraits
from edgeexit.errors import EdgeExitError, TargetError
from edgeexit.runtime import Runner
from tests.bundles import make_bundle

OTHER_CPU = "raspberry-pi-5" if platform.machine() == "x86_64" else "x86-cpu"
TARGET = """
description = "A box"
architecture = "{architecture}"
runtime = "absent"
precisions = ["fp32"]
opset = 20
[session]
provider = "AbsentExecutionProvider"
"""


def test_a_bundle_for_another_architecture_is_refused_unless_fallback_is_allowed(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", target=OTHER_CPU)
    with pytest.raises(
        TargetError, match=rf"'{OTHER_CPU}' is for \w+, this machine is {platform.machine()}; compile for"
    ):
        Runner(bundle, fallback=False)
    with Runner(bundle, fallback=True) as runner:
        assert "latencies do not predict the target's" in runner.warnings[0]


def test_a_runtime_that_does_not_start_is_refused_unless_fallback_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    bundle = make_bundle(tmp_path / "bundle", target="jetson-orin-nano")
    with pytest.raises(EdgeExitError) as refused:
        Runner(bundle, fallback=False)
    refusal = str(refused.value)
    assert len(refusal.splitlines()) == 1
    assert refusal.startswith("target 'jetson-orin-nano' runs on TensorRT, which does not start here: ")
    assert refusal.endswith("compile for a target of this machine, or allow fallback (in agent.toml, fallback = true)")
    with Runner(bundle, fallback=True) as runner:
        assert "; ONNX Runtime runs the stages instead: latencies do not" in runner.warnings[0]
        assert str(refused.value.__cause__) in runner.warnings[0]
        assert runner.runtime == f"onnxruntime {ort.__version__}"


def test_a_runtime_that_is_not_installed_is_refused_unless_fallback_is_allowed(tmp_path, monkeypatch):
    traits = BackendTraits(
        name="absent", title="Absent", summary="", backend="absent_runtime:Backend", extra="absent", probe_modules=()
    )
    monkeypatch.setitem(registry._registered, "absent", traits)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "box.toml").write_text(TARGET.format(architecture=platform.machine()))
    bundle = make_bundle(tmp_path / "bundle", target="box")
    missing = "target 'box' runs on Absent, but module 'absent_runtime' is not installed"
    with pytest.raises(TargetError, match=rf"^{missing}; install edgeexit\[absent\]$"):
        Runner(bundle, fallback=False)
    with Runner(bundle, fallback=True) as runner:
        assert runner.warnings[0].startswith(f"{missing}; ONNX Runtime runs the stages instead")
        assert runner.runtime == f"onnxruntime {ort.__version__}"
