"""Signatures of bundles: manifest and policy, and the keys that a device trusts."""

import pytest

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.signing import generate_key, load_private_key, load_public_key
from tests.bundles import make_bundle


def policy_for(bundle: Bundle, revision: int) -> PolicyDocument:
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9, 0.8))
    return PolicyDocument(bundle=bundle.digest, revision=revision, policy=policy)


def test_with_trusted_keys_a_signature_over_manifest_and_policy_is_required(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    trusted = load_public_key(generate_key(tmp_path / "trusted.key"))
    other = load_public_key(generate_key(tmp_path / "other.key"))
    bundle.write_policy(policy_for(bundle, revision=0))
    with pytest.raises(BundleError, match=r"signature\.json is missing"):
        Bundle.open(bundle.path, trusted_keys=[trusted])
    bundle.sign(load_private_key(tmp_path / "trusted.key"))
    assert Bundle.open(bundle.path, trusted_keys=[other, trusted]).digest == bundle.digest
    with pytest.raises(BundleError, match="wrong signature"):
        Bundle.open(bundle.path, trusted_keys=[other])
    signature = (bundle.path / "signature.json").read_bytes()
    bundle.write_policy(policy_for(bundle, revision=1))
    assert not bundle.is_signed
    (bundle.path / "signature.json").write_bytes(signature)
    with pytest.raises(BundleError, match=r"policy\.json does not match the signature"):
        Bundle.open(bundle.path, trusted_keys=[trusted])
