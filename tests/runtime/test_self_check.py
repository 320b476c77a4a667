"""The self-check with golden samples: an agent does not serve a bundle that gives wrong logits."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle, GoldenSamples, write_golden, write_manifest
from edgeexit.errors import BundleError, TargetError
from edgeexit.runtime import Runner
from edgeexit.runtime.self_check import self_check
from edgeexit.targets import host_target
from tests.bundles import make_bundle


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return AgentConfig(fleet="plant", state_dir=tmp_path / "state")


def rewritten(bundle: Bundle, golden: GoldenSamples | None) -> Bundle:
    """Return the bundle with other golden samples, or none, and matching digests."""
    (bundle.path / "golden.npz").unlink()
    (bundle.path / "manifest.json").unlink()
    if golden is not None:
        write_golden(bundle.path, golden)
    write_manifest(bundle.path, bundle.manifest)
    return Bundle.open(bundle.path)


def test_the_check_returns_the_error_of_every_exit(tiny: Bundle) -> None:
    with Runner(tiny) as runner:
        checks = self_check(runner, tiny, tiny.golden())
    assert [check.exit for check in checks] == ["e0", "e1", "e2"]
    assert all(0 <= check.max_error < 1e-4 and check.agreement == 1 for check in checks)


def test_a_bundle_with_wrong_logits_is_not_served_and_the_exit_is_named(tiny: Bundle, config: AgentConfig) -> None:
    golden = tiny.golden()
    wrong = rewritten(tiny, msgspec.structs.replace(golden, exits={**golden.exits, "e1": golden.exits["e1"] + 0.5}))
    with pytest.raises(BundleError, match=r"gives wrong logits on this machine \(onnxruntime .*'e1' .* by up to 0\.5"):
        Agent(wrong, config).__enter__()
    assert not (config.state_dir / "outbox.db").exists(), "the check runs before the start is counted"


def test_a_bundle_with_outputs_that_are_not_finite_is_not_served(tiny: Bundle, config: AgentConfig) -> None:
    golden = tiny.golden()
    far = {name: np.full_like(array, 3e38) for name, array in golden.inputs.items()}
    with pytest.raises(BundleError, match="'e0'"):
        Agent(rewritten(tiny, msgspec.structs.replace(golden, inputs=far)), config).__enter__()


def test_missing_golden_samples_raise_an_error(tiny: Bundle, config: AgentConfig) -> None:
    with pytest.raises(BundleError, match=r"has no golden\.npz; compile it again"):
        Agent(rewritten(tiny, None), config).__enter__()


def test_missing_golden_logits_raise_an_error_that_names_the_exit(tiny: Bundle, config: AgentConfig) -> None:
    golden = tiny.golden()
    few = msgspec.structs.replace(golden, exits={"e0": golden.exits["e0"]})
    with Runner(tiny) as runner, pytest.raises(BundleError, match="no golden logits for exit 'e1'"):
        self_check(runner, tiny, few)
    with pytest.raises(BundleError, match=r"golden\.npz is damaged: it contains .* instead of .*exit\.e1"):
        Agent(rewritten(tiny, few), config).__enter__()


def test_a_bundle_for_another_architecture_needs_the_fallback_option(
    tmp_path: Path, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    target = "arm64-cpu" if host_target() == "x86-cpu" else "x86-cpu"
    other = make_bundle(tmp_path / "other", target=target)
    with pytest.raises(TargetError, match=f"target '{target}' is for .* or allow fallback"):
        Agent(other, config)
    with Agent(other, msgspec.structs.replace(config, fallback=True)):
        assert f"target '{target}' is for" in caplog.text
