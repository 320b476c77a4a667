"""Bundles: verified on opening, written whole or not at all."""

import errno
import hashlib
import json
import sys
import threading

import pytest

from edgeexit.bundle import Bundle, bundle_folder
from edgeexit.errors import BundleError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.entropy import Entropy
from edgeexit.signing import generate_key, load_private_key, load_public_key
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def document_for(made: Bundle, **changes: object) -> PolicyDocument:
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9, 0.8))
    return PolicyDocument(**({"bundle": made.digest, "revision": 0, "policy": policy} | changes))


def test_the_digest_names_the_content(bundle, tmp_path):
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


def test_a_damaged_manifest_or_no_bundle_is_said(bundle, tmp_path):
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


def test_policy_and_profile_come_later_and_leave_the_digest_alone(bundle):
    assert bundle.policy() is None
    assert bundle.profile() is None
    bundle.write_policy(document_for(bundle))
    again = Bundle.open(bundle.path)
    assert again.digest == bundle.digest
    assert again.policy() == document_for(bundle)


def test_a_changed_threshold_in_the_policy_file_is_noticed(bundle):
    bundle.write_policy(document_for(bundle))
    path = bundle.path / "policy.json"
    path.write_text(path.read_text().replace("0.9", "0.1"))
    with pytest.raises(BundleError, match=r"policy\.json is damaged"):
        bundle.policy()


def test_a_policy_for_another_bundle_or_number_of_exits_or_classes_is_refused(bundle):
    bundle.write_policy(document_for(bundle, bundle="0" * 64))
    with pytest.raises(BundleError, match="fitted for bundle 000000000000"):
        bundle.policy()
    bundle.write_policy(document_for(bundle, policy=Confidence(temperatures=(1.0, 1.0), thresholds=(0.5,))))
    with pytest.raises(BundleError, match="for 2 exits, the bundle has 3"):
        bundle.policy()
    entropy = Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=9)
    bundle.write_policy(document_for(bundle, policy=entropy))
    with pytest.raises(BundleError, match="for 9 classes, the bundle has 4"):
        bundle.policy()


def test_pinned_keys_require_a_signature_over_manifest_and_policy(bundle, tmp_path):
    public = load_public_key(generate_key(tmp_path / "maker.key"))
    stranger = load_public_key(generate_key(tmp_path / "stranger.key"))
    bundle.write_policy(document_for(bundle))
    with pytest.raises(BundleError, match=r"signature\.json is missing"):
        Bundle.open(bundle.path, trusted_keys=[public])
    bundle.sign(load_private_key(tmp_path / "maker.key"))
    assert Bundle.open(bundle.path, trusted_keys=[stranger, public]).digest == bundle.digest
    with pytest.raises(BundleError, match="wrong signature"):
        Bundle.open(bundle.path, trusted_keys=[stranger])
    bundle.write_policy(document_for(bundle, revision=1))
    with pytest.raises(BundleError, match=r"policy\.json is not what was signed"):
        Bundle.open(bundle.path, trusted_keys=[public])


def test_a_profile_of_another_schema_is_said(bundle):
    sealed = hashlib.sha256(b'{"bundle":1}').hexdigest()
    (bundle.path / "profile.json").write_text(json.dumps({"sha256": sealed, "document": {"bundle": 1}}))
    with pytest.raises(BundleError, match=r"profile\.json"):
        bundle.profile()


def test_every_stage_must_have_a_digest(bundle):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"]["stage1.onnx"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"no digest of stage1\.onnx"):
        Bundle.open(bundle.path)


def test_a_failed_build_leaves_nothing(tmp_path):
    target = tmp_path / "bundle"

    def fail() -> None:
        with bundle_folder(target) as folder:
            (folder / "stage0.onnx").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_no_folder_that_it_made_and_all_that_others_made(tmp_path):
    (tmp_path / "old").mkdir()
    for target in ("new/deeper/bundle", "old/new/bundle"):
        with pytest.raises(RuntimeError), bundle_folder(tmp_path / target):
            raise RuntimeError
    assert [place.name for place in tmp_path.rglob("*")] == ["old"]
    with pytest.raises(RuntimeError), bundle_folder(tmp_path / "new" / "deeper" / "bundle"):  # noqa: PT012 - a race
        (tmp_path / "new" / "by others").touch()
        raise RuntimeError
    assert sorted(place.name for place in tmp_path.rglob("*")) == ["by others", "new", "old"]


def test_a_file_that_does_not_fit_the_disk_is_named_by_what_it_is_to_be(tmp_path):
    with pytest.raises(BundleError, match=r"bundle '.*/bundle': golden.npz cannot be written: No space left"):  # noqa: SIM117
        with bundle_folder(tmp_path / "bundle") as folder:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "golden.npz"))
    with pytest.raises(BundleError, match=r"bundle '.*/bundle' cannot be written: No space left"):  # noqa: SIM117
        with bundle_folder(tmp_path / "bundle"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two folders")
def test_while_a_bundle_is_replaced_there_always_is_one(tmp_path):
    target = tmp_path / "bundle"
    done = threading.Event()
    missed = 0

    def watch():
        nonlocal missed
        while not done.is_set():
            missed += not (target / "manifest.json").exists()

    with bundle_folder(target) as folder:
        (folder / "manifest.json").touch()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(60):
        with bundle_folder(target, replace=True) as folder:
            (folder / "manifest.json").touch()
    done.set()
    watcher.join()
    assert missed == 0
    assert [place.name for place in tmp_path.iterdir()] == ["bundle"]


def test_an_existing_bundle_is_replaced_only_when_asked_and_another_folder_never(bundle, tmp_path):
    with pytest.raises(BundleError, match="--force"), bundle_folder(bundle.path):
        pass
    with bundle_folder(bundle.path, replace=True) as folder:
        (folder / "new").touch()
    assert [file.name for file in bundle.path.iterdir()] == ["new"]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(BundleError, match="is not a bundle"), bundle_folder(bundle.path, replace=True):
        pass
    assert (bundle.path / "new").exists()
