"""The preflight refuses a bundle whose signature the agent would refuse, before anything is copied."""

import pytest

from edgeexit.bundle import Bundle
from edgeexit.bundle.checksummed import encode_checksummed
from edgeexit.errors import DeployError
from edgeexit.policies import PolicyDocument, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.signing import generate_key, load_private_key
from tests.bundles import make_bundle


@pytest.fixture
def keys(tmp_path):
    """Private keys of the builder, whom the devices trust, and of a stranger."""
    folder = tmp_path / "private"
    folder.mkdir()
    for name in ("builder", "stranger"):
        generate_key(folder / f"{name}.pem")
    return {name: folder / f"{name}.pem" for name in ("builder", "stranger")}


@pytest.fixture
def signed(tmp_path, keys):
    """Return a bundle that a key has signed."""

    def make(name):
        folder = tmp_path / f"signed-{name}"
        bundle = make_bundle(folder) if not folder.exists() else Bundle.open(folder)
        bundle.sign(load_private_key(keys[name]))
        return bundle

    return make


@pytest.fixture
def trusting(write_config, keys):
    """Write a configuration that trusts the builder, by a file beside it or by a path on the device."""

    def make(field="bundle_keys", *, on_device=False):
        public = keys["builder"].with_suffix(".pub")
        name = str(public) if on_device else "builder.pub"
        config = write_config(f'signed_bundle = true\n{field} = ["{name}"]', f"{field}-{on_device}")
        if not on_device:
            (config.parent / "builder.pub").write_bytes(public.read_bytes())
        return config

    return make


@pytest.mark.parametrize("field", ["trusted_keys", "bundle_keys"])
@pytest.mark.parametrize("on_device", [False, True])
def test_only_a_bundle_that_a_trusted_key_signed_passes_the_preflight(device, signed, trusting, field, on_device):
    config = trusting(field, on_device=on_device)
    assert device.push(signed("builder"), config, dry_run=True).outcome == "planned"
    with pytest.raises(DeployError, match=r"no trusted key signed this content.*nothing was copied"):
        device.push(signed("stranger"), config)
    assert not (device.root / "incoming").exists()
    assert device.steps == ["preflight"]


def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(device, bundles, trusting):
    with pytest.raises(DeployError, match=r"signed_bundle = true, but bundle .* is not signed; run `edgeexit sign`"):
        device.push(bundles[0], trusting())
    assert device.steps == ["preflight"]


def test_a_policy_that_was_replaced_after_signing_is_refused(device, signed, trusting):
    bundle = signed("builder")
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.45, 0.7))
    document = PolicyDocument(bundle=bundle.digest, revision=0, policy=policy)
    (bundle.path / "policy.json").write_bytes(encode_checksummed("policy.json", encode_document(document)))
    with pytest.raises(DeployError, match=r"policy\.json does not match the signature.*nothing was copied"):
        device.push(bundle, trusting())


@pytest.mark.parametrize(("content", "expected"), [(None, "No such file"), ("not a key", "is not a public key")])
def test_a_key_that_the_device_does_not_have_is_named(device, signed, trusting, keys, content, expected):
    bundle, config = signed("builder"), trusting(on_device=True)
    public = keys["builder"].with_suffix(".pub")
    public.unlink()
    if content is not None:
        public.write_text(content)
    with pytest.raises(DeployError, match=rf"the key '{public}' on the device, which may sign bundles: .*{expected}"):
        device.push(bundle, config)


def test_a_key_on_the_device_may_have_comments_as_for_the_agent(device, signed, trusting, keys):
    public = keys["builder"].with_suffix(".pub")
    public.write_text(f"# the build server\n{public.read_text()}# end\n")
    assert device.push(signed("builder"), trusting(on_device=True), dry_run=True).outcome == "planned"


def test_a_private_key_on_the_device_never_leaves_it(device, signed, write_config, keys):
    config = write_config(f'signed_bundle = true\nbundle_keys = ["{keys["builder"]}"]')
    with pytest.raises(DeployError, match="is not a public key") as raised:
        device.push(signed("builder"), config)
    assert "PRIVATE" not in str(raised.value)


def test_without_config_the_keys_of_the_current_release_decide(device, signed, trusting):
    device.push(signed("builder"), trusting())
    with pytest.raises(DeployError, match="no trusted key signed this content"):
        device.push(signed("stranger"))
    assert device.steps == ["preflight"]
    assert device.push(signed("builder")).outcome == "unchanged"
