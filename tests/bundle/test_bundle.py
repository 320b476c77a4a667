"""Opening a bundle: damaged files, policies and profiles of other bundles."""

import hashlib
import json

import pytest

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.entropy import Entropy
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def policy_for(built: Bundle, **changes: object) -> PolicyDocument:
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9, 0.8))
    return PolicyDocument(**({"bundle": built.digest, "revision": 0, "policy": policy} | changes))


def test_the_digest_identifies_the_content(bundle, tmp_path):
    assert Bundle.open(bundle.path).digest == bundle.digest
    assert make_bundle(tmp_path / "same").digest == bundle.digest
    assert make_bundle(tmp_path / "other", seed=1).digest != bundle.digest


@pytest.mark.parametrize("name", ["stage1.onnx", "golden.npz"])
def test_a_damaged_file_is_named(bundle, name):
    content = bytearray((bundle.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        Bundle.open(bundle.path)


def test_a_missing_file_is_named(bundle):
    (bundle.path / "stage2.onnx").unlink()
    with pytest.raises(BundleError, match=r"stage2\.onnx"):
        Bundle.open(bundle.path)


def test_a_damaged_manifest_or_a_folder_without_one_is_refused(bundle, tmp_path):
    (bundle.path / "manifest.json").write_bytes(b"{")
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(bundle.path)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "nothing")


def test_a_manifest_cannot_point_outside_the_bundle(bundle):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["../secret"] = "0" * 64
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(bundle.path)


def test_writing_a_policy_does_not_change_the_digest(bundle):
    assert bundle.policy() is None
    assert bundle.profile() is None
    bundle.write_policy(policy_for(bundle))
    again = Bundle.open(bundle.path)
    assert again.digest == bundle.digest
    assert again.policy() == policy_for(bundle)


def test_a_changed_threshold_in_the_policy_file_is_detected(bundle):
    bundle.write_policy(policy_for(bundle))
    path = bundle.path / "policy.json"
    path.write_text(path.read_text().replace("0.9", "0.1"))
    with pytest.raises(BundleError, match=r"policy\.json is damaged"):
        bundle.policy()


def test_a_policy_for_another_bundle_or_number_of_exits_or_classes_is_refused(bundle):
    bundle.write_policy(policy_for(bundle, bundle="0" * 64))
    with pytest.raises(BundleError, match="fitted for bundle 000000000000"):
        bundle.policy()
    bundle.write_policy(policy_for(bundle, policy=Confidence(temperatures=(1.0, 1.0), thresholds=(0.5,))))
    with pytest.raises(BundleError, match="for 2 exits, the bundle has 3"):
        bundle.policy()
    entropy = Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=9)
    bundle.write_policy(policy_for(bundle, policy=entropy))
    with pytest.raises(BundleError, match="for 9 classes, the bundle has 4"):
        bundle.policy()


def test_a_profile_with_another_schema_is_refused(bundle):
    checksum = hashlib.sha256(b'{"bundle":1}').hexdigest()
    (bundle.path / "profile.json").write_text(json.dumps({"sha256": checksum, "document": {"bundle": 1}}))
    with pytest.raises(BundleError, match=r"profile\.json"):
        bundle.profile()


def test_every_stage_must_have_a_digest(bundle):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"]["stage1.onnx"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"no digest of stage1\.onnx"):
        Bundle.open(bundle.path)
