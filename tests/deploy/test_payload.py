"""The files that are sent: the bundle's own, never one that a link leads to, and the bytes that were checked."""

import os
import sys

import pytest

from edgeexit.bundle import Bundle
from edgeexit.deploy import read_configuration
from edgeexit.deploy.copying import copy_files
from edgeexit.deploy.device import Device
from edgeexit.deploy.payload import bundle_files, local_file
from edgeexit.deploy.ssh import Connection
from edgeexit.errors import DeployError, EdgeExitError
from tests.bundles import make_bundle

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def secret(tmp_path):
    """A file outside of everything that is deployed."""
    path = tmp_path / "home" / "id_ed25519"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


def content(file):
    return b"".join(file.source.chunks())


def test_only_the_files_of_the_manifest_and_policy_profile_and_signatures_are_sent(bundle):
    for name in ("id_rsa", ".git/config", "notes.txt"):
        (bundle.path / name).parent.mkdir(exist_ok=True)
        (bundle.path / name).write_bytes(SECRET)
    (bundle.path / "profile.sig").write_text("{}")
    names = {file.name.removeprefix("bundle/") for file in bundle_files(bundle)}
    assert names == {"manifest.json", "profile.sig", *bundle.manifest.files}


@pytest.mark.parametrize("name", ["policy.json", "profile.json", "signature.json", "profile.sig"])
@pytest.mark.parametrize("make", ["absolute link", "relative link", "dangling link", "fifo", "folder"])
def test_what_is_not_a_regular_file_in_the_folder_of_a_bundle_is_refused(bundle, secret, name, make):
    path = bundle.path / name
    if make == "fifo":
        os.mkfifo(path)
    elif make == "folder":
        path.mkdir()
    else:
        path.symlink_to({"absolute link": secret, "relative link": "../home/id_ed25519"}.get(make, "nowhere"))
    with pytest.raises(DeployError, match=rf"{name}' cannot be copied: .*only regular files"):
        bundle_files(bundle)


def test_a_stage_that_is_replaced_by_a_link_after_the_bundle_was_opened_is_refused(bundle, secret):
    stage = bundle.path / bundle.manifest.stages[0].file
    stage.unlink()
    stage.symlink_to(secret)
    with pytest.raises(DeployError, match="is a symbolic link"):
        bundle_files(bundle)


def test_a_file_that_changes_after_the_bundle_was_opened_is_refused(bundle):
    (bundle.path / "manifest.json").write_bytes((bundle.path / "manifest.json").read_bytes() + b"\n")
    with pytest.raises(DeployError, match=r"manifest\.json has changed meanwhile"):
        bundle_files(bundle)


def test_a_folder_that_is_swapped_during_the_copy_changes_nothing(device, bundle, secret, tmp_path):
    files = bundle_files(bundle)
    expected = {file.name: content(file) for file in files}
    bundle.path.rename(tmp_path / "old")
    bundle.path.mkdir()
    for file in files:
        (tmp_path / file.name).symlink_to(secret)
    with Connection(device.sshd.address()) as connection:
        copy_files(Device(connection, python=sys.executable, root=str(device.root)), files, "swapped")
    for name, found in expected.items():
        assert (device.root / "incoming" / "swapped" / name).read_bytes() == found


def test_hard_links_and_a_link_to_the_folder_of_a_bundle_are_sent(bundle, tmp_path):
    stage = bundle.manifest.stages[0].file
    os.link(bundle.path / stage, tmp_path / "other-name")
    (tmp_path / "latest").symlink_to(bundle.path)
    files = bundle_files(Bundle.open(tmp_path / "latest"))
    assert any(file.name == f"bundle/{stage}" for file in files)


@pytest.mark.parametrize(
    ("text", "link", "target"),
    [
        ('policy_keys = ["keys/c.pub"]', "keys", "../home"),
        ('trusted_keys = ["keys/c.pub"]', "keys/c.pub", "../../home/id_ed25519"),
        ('[broker]\nusername = "u"\npassword_file = "password"', "password", "../home/id_ed25519"),
        ("", "agent.toml", "../home/agent.toml"),
    ],
)
def test_a_configuration_sends_no_file_behind_a_link(tmp_path, secret, text, link, target):
    (secret.parent / "agent.toml").write_text(f'fleet = "f"\n{text}\n')
    (secret.parent / "c.pub").write_bytes(SECRET)
    folder = tmp_path / "config"
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    if link != "agent.toml":
        (folder / "agent.toml").write_text(f'fleet = "f"\n{text}\n')
    (folder / link).symlink_to(target)
    with pytest.raises(EdgeExitError, match=r"link|trusted_keys") as raised:
        read_configuration(folder / "agent.toml")
    assert "PRIVATE" not in str(raised.value)


def test_hostile_names_arrive_unchanged_or_are_refused(device, tmp_path):
    names = ["-rf", "$(touch pwned)", "'; touch pwned; '", '"', "a b", "ü", "{wheels}", "*", "--config"]
    for name in names:
        (tmp_path / name).write_text(name)
    files = [local_file(f"bundle/{name}", tmp_path, name) for name in names]
    with Connection(device.sshd.address()) as connection:
        copy_files(Device(connection, python=sys.executable, root=str(device.root)), files, "names")
    folder = device.root / "incoming" / "names" / "bundle"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in names}
    for name in ("a\nb", "\x1b[2J", "\u202e", os.fsdecode(b"\xff")):
        (tmp_path / name).write_text("x")
        with pytest.raises(DeployError, match="control character") as raised:
            local_file(f"wheels/{name}", tmp_path, name)
        assert str(raised.value).isprintable()


@pytest.mark.parametrize("relative", ["../home/id_ed25519", "/etc/passwd", "a/../../home/id_ed25519", ""])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, secret, relative):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    with pytest.raises(DeployError, match="cannot be copied"):
        local_file("x", folder, relative)
