"""Signatures of bundles: manifest and policy, the profile apart from them, and the keys that a device trusts."""

import msgspec
import pytest

from edgeexit.bundle import Bundle
from edgeexit.bundle.layout import MAX_BYTES
from edgeexit.errors import BundleError
from edgeexit.latency import LatencyProfile
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import profile_bundle
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


@pytest.fixture
def keys(tmp_path):
    public = generate_key(tmp_path / "maker.key")
    return load_private_key(tmp_path / "maker.key"), load_public_key(public)


def profile_of(bundle: Bundle) -> LatencyProfile:
    return profile_bundle(bundle, policy=None, dataset=None, seconds=0.05)


def test_a_policy_or_profile_that_could_not_be_read_again_is_not_written(tmp_path, keys, monkeypatch):
    bundle = make_bundle(tmp_path / "bundle")
    profile = profile_of(bundle)
    writes = {
        "policy.json": lambda: bundle.write_policy(policy_for(bundle, revision=1), key=keys[0]),
        "profile.json": lambda: bundle.write_profile(profile, key=keys[0]),
    }
    for name, write in writes.items():
        write()
        size = (bundle.path / name).stat().st_size
        before = {file.name: file.read_bytes() for file in bundle.path.iterdir()}
        monkeypatch.setitem(MAX_BYTES, name, size - 1)
        with pytest.raises(BundleError, match=rf"{name} would have .* bytes, and .* are allowed.*; run `edgeexit "):
            write()
        assert {file.name: file.read_bytes() for file in bundle.path.iterdir()} == before
        monkeypatch.setitem(MAX_BYTES, name, size)
        write()
    assert Bundle.open(bundle.path, trusted_keys=[keys[1]]).policy() == policy_for(bundle, revision=1)
    assert bundle.profile() == profile


def test_the_signature_of_a_profile_covers_that_profile_of_that_bundle_only(tmp_path, keys):
    private, public = keys
    bundle, other = (make_bundle(tmp_path / f"{seed}", seed=seed) for seed in (0, 1))
    for each in (bundle, other):
        each.write_profile(profile_of(each), key=private)
        each.sign(private)
        assert Bundle.open(each.path, trusted_keys=[public]).profile() == each.profile()
        assert each.is_profile_signed_by([public])
    signature, profile = ((bundle.path / name).read_bytes() for name in ("profile.sig", "profile.json"))

    (bundle.path / "profile.sig").write_bytes((other.path / "profile.sig").read_bytes())
    with pytest.raises(BundleError, match=r"manifest\.json does not match the signature in profile\.sig"):
        Bundle.open(bundle.path, trusted_keys=[public])
    for name in ("profile.sig", "profile.json"):  # both together, from another bundle
        (bundle.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(BundleError, match=r"profile\.sig"):
        Bundle.open(bundle.path, trusted_keys=[public])
    (bundle.path / "profile.sig").write_bytes((bundle.path / "signature.json").read_bytes())
    with pytest.raises(BundleError, match=r"profile\.sig: envelope has payload type '.*bundle-digests"):
        Bundle.open(bundle.path, trusted_keys=[public])

    (bundle.path / "profile.sig").write_bytes(signature)
    (bundle.path / "profile.json").write_bytes(profile)
    opened = Bundle.open(bundle.path, trusted_keys=[public])
    changed = msgspec.structs.replace(bundle.profile(), cold_load_ms=1.0)
    bundle.write_profile(changed)
    (bundle.path / "profile.sig").write_bytes(signature)
    assert not bundle.is_profile_signed_by([public])
    with pytest.raises(BundleError, match=r"profile\.json does not match the signature"):
        opened.profile()
    assert bundle.profile() == changed  # without trusted keys, no signature is needed


def test_a_new_profile_without_a_key_loses_its_signature_and_the_bundle_keeps_its_own(tmp_path, keys):
    private, public = keys
    bundle = make_bundle(tmp_path / "bundle")
    bundle.write_profile(profile_of(bundle), key=private)
    bundle.sign(private)
    bundle.write_profile(profile_of(bundle))
    opened = Bundle.open(bundle.path, trusted_keys=[public])
    assert opened.has_unsigned_profile
    assert opened.profile() is not None
    (bundle.path / "profile.json").unlink()
    bundle.sign(private)
    assert not (bundle.path / "profile.sig").exists()


def test_an_untrusted_key_cannot_sign_a_profile(tmp_path, keys):
    generate_key(tmp_path / "other.key")
    bundle = make_bundle(tmp_path / "bundle")
    bundle.sign(keys[0])
    bundle.write_profile(profile_of(bundle), key=load_private_key(tmp_path / "other.key"))
    with pytest.raises(BundleError, match=r"profile\.sig: wrong signature"):
        Bundle.open(bundle.path, trusted_keys=[keys[1]])


def test_a_damaged_policy_or_one_of_another_bundle_is_not_signed(tmp_path, keys):
    bundle, other = (make_bundle(tmp_path / f"{seed}", seed=seed) for seed in (0, 1))
    other.write_policy(policy_for(other, revision=0))
    (bundle.path / "policy.json").write_bytes((other.path / "policy.json").read_bytes())
    with pytest.raises(BundleError, match=r"policy\.json was fitted for bundle"):
        bundle.sign(keys[0])
    assert not bundle.is_signed


def test_a_bundle_can_need_the_signatures_of_several_keys(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    bundle.write_profile(profile_of(bundle))
    public = [load_public_key(generate_key(tmp_path / f"{name}.key")) for name in "abc"]
    private = [load_private_key(tmp_path / f"{name}.key") for name in "abc"]
    bundle.sign(*private[:2])
    Bundle.open(bundle.path).verify_signature(public, threshold=2)
    with pytest.raises(BundleError, match="only 2 of the 3"):
        Bundle.open(bundle.path).verify_signature(public, threshold=3)
    opened = Bundle.open(bundle.path)
    opened.verify_signature(public, threshold=2)
    bundle.sign(private[0])
    with pytest.raises(BundleError, match="only 1 of the 2"):
        opened.policy()
    bundle.write_profile(profile_of(bundle), key=private[0])
    with pytest.raises(BundleError, match="only 1 of the 2"):
        opened.profile()
