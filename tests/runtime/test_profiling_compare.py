"""The comparison of two bundles."""

import platform

import numpy as np
import pytest
from msgspec.structs import replace

from edgeexit.bundle import Bundle
from edgeexit.errors import DataError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime.profiling.compare import _alternate, _over_rounds, compare_bundles
from tests.bundles import make_bundle


def give_policy(bundle, thresholds):
    policy = Confidence(temperatures=(1.0,) * (len(thresholds) + 1), thresholds=thresholds)
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    return Bundle.open(bundle.path)


@pytest.mark.timing
def test_a_policy_that_uses_only_the_first_exit_is_faster_than_one_without_early_exits(tmp_path):
    never = give_policy(make_bundle(tmp_path / "a", exits=4), (None, None, None))
    at_once = give_policy(make_bundle(tmp_path / "b", exits=4, seed=1), (0.0, 0.0, 0.0))
    found = compare_bundles(never, at_once, seconds=0.3)
    assert list(found.exits) == ["e0", "e1", "e2", "e3"]
    assert found.end_to_end.high < 1
    assert found.b.end_to_end_ms < found.a.end_to_end_ms
    assert found.a.policy == found.b.policy == "confidence"
    for name, ratio in found.exits.items():
        assert ratio.low <= ratio.value <= ratio.high
        assert found.a.exit_ms[name] > 0


def test_without_two_policies_only_the_stages_are_compared(tmp_path):
    a, b = make_bundle(tmp_path / "a"), give_policy(make_bundle(tmp_path / "b", exits=2, seed=1), (0.5,))
    found = compare_bundles(a, b, seconds=0.05)
    assert list(found.exits) == ["e0", "e1"]  # the common exits
    assert found.end_to_end is None
    assert found.b.end_to_end_ms is None


def test_bundles_without_a_common_exit_are_refused(tmp_path):
    a, b = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b", seed=1)
    stages = tuple(
        replace(stage, exit=replace(stage.exit, name=f"other{k}")) for k, stage in enumerate(b.manifest.stages)
    )
    b = Bundle(b.path, replace(b.manifest, stages=stages), b.digest)
    with pytest.raises(DataError, match="no common exit to compare"):
        compare_bundles(a, b, seconds=0.05)


def test_the_order_of_the_two_bundles_alternates():
    order = []
    for turn in range(4):
        assert _alternate(lambda: order.append("a"), lambda: order.append("b"), turn) == (None, None)
    assert "".join(order) == "abbaabba"


def test_equal_bundles_are_rarely_significantly_different():
    generator = np.random.default_rng(1)
    outside = 0
    for _ in range(400):
        ratio = _over_rounds(np.exp(generator.normal(scale=0.02, size=8)))
        outside += not ratio.low <= 1 <= ratio.high
    assert 8 <= outside <= 34  # 20 are expected


def test_a_ratio_that_all_rounds_agree_on_is_significant():
    ratio = _over_rounds([1.09, 1.11, 1.10, 1.10, 1.08, 1.12, 1.10, 1.10])
    assert ratio.value == pytest.approx(1.1, abs=0.001)
    assert 1.08 < ratio.low < ratio.value < ratio.high < 1.12


def test_a_bundle_for_another_target_has_a_warning(tmp_path):
    a = make_bundle(tmp_path / "a")
    b = make_bundle(tmp_path / "b", target="raspberry-pi-5" if platform.machine() == "x86_64" else "x86-cpu")
    found = compare_bundles(a, b, seconds=0.05)
    assert found.a.warnings == ()
    assert "latencies do not predict the target's" in found.b.warnings[0]
