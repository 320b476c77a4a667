"""`edgeexit keys ...` as a user runs it."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from edgeexit.agent.fleet_link.identity import DeviceIdentity
from edgeexit.key_set import TrustedKeys
from edgeexit.pki import AuthorityFolder, FleetPlan, create_fleet
from edgeexit.pki.certificates import utc_now
from edgeexit.signing import load_public_key


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of the keys of a fleet with the devices a and b, for reading only."""
    folder = tmp_path_factory.mktemp("keys") / "k"
    with AuthorityFolder(folder, create=True) as authority:
        create_fleet(authority, FleetPlan(fleet="shop", hosts=("localhost",), devices=("a", "b")))
    return folder


@pytest.fixture
def fleet(made, tmp_path):
    """Return a copy of it."""
    return Path(shutil.copytree(made, tmp_path / "k"))


def test_fleet_prints_what_it_created_and_the_next_step(edgeexit, tmp_path):
    command = ("keys", "fleet", tmp_path / "k", "--fleet", "shop", "--devices", "2", "--host", "localhost")
    outcome = edgeexit(*command)
    assert outcome.out.count(" new ") == 6
    assert f"next: copy the folders as {tmp_path / 'k' / 'README.md'} says" in outcome.out
    again = json.loads(edgeexit(*command, "--json").out)
    assert [(entry["kind"], entry["name"], entry["is_new"]) for entry in again] == [
        ("ca", "EdgeExit shop", False),
        ("broker", "broker", False),
        ("calibrator", "edgeexit-calibrator-shop", False),
        ("operator", "edgeexit-operator-shop", False),
        ("device", "device-1", False),
        ("device", "device-2", False),
    ]


def test_the_parts_can_be_created_one_by_one(edgeexit, tmp_path):
    folder = tmp_path / "k"
    assert edgeexit("keys", "device", folder, "a").err == (
        f"error: '{folder}' has no certificate authority; create it with `edgeexit keys ca {folder}`\n"
    )
    commands = [("ca", folder), ("broker", folder, "--host", "localhost"), ("device", folder, "a", "b", "a")]
    commands += [("calibrator", folder, "--fleet", "shop"), ("operator", folder, "--fleet", "shop")]
    for command in commands:
        outcome = edgeexit("keys", *command)
        assert (outcome.code, outcome.err) == (0, "")
        assert "next: " in outcome.out
    assert sorted(path.name for path in (folder / "devices").iterdir()) == ["a", "b"]
    listed = json.loads(edgeexit("keys", "list", folder, "--json").out)
    assert {entry["kind"] for entry in listed["certificates"]} == {
        *("ca", "crl", "broker", "device", "calibrator", "operator")
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("device", "{}", "edgeexit-operator-shop"), "are reserved"),
        (("device", "{}", "a", "b/c"), "must be 1 to 64 characters"),
        (("broker", "{}", "--host", "mqtts://x"), "neither a host name"),
        (("calibrator", "{}", "--fleet", "+"), "must be 1 to 64 characters"),
        (("calibrator", "{}", "--fleet", "other"), "is the certificate of 'edgeexit-calibrator-shop'"),
        (("revoke", "{}", "c"), "no certificate for 'c'"),
        (("renew", "{}", "c"), "no certificate for 'c'"),
        (("fleet", "{}", "--fleet", "shop", "--devices", "0", "--host", "x"), "give a number from 1"),
        (("disconnect", "{}", "a", "--broker", "mqtts://localhost:1"), "cannot connect to the broker"),
        (("identity", "{}"), "contains no identity key"),
    ],
)
def test_an_error_is_one_line_that_names_the_thing(edgeexit, made, monkeypatch, arguments, reason):
    monkeypatch.setattr("edgeexit.pki.disconnect._CONNECT_S", 0.2)
    before = sorted(made.rglob("*"))
    outcome = edgeexit("keys", *(argument.format(made) for argument in arguments))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert reason in outcome.err
    assert sorted(made.rglob("*")) == before


def test_list_has_exit_code_1_if_something_ends_soon(edgeexit, fleet, monkeypatch):
    assert edgeexit("keys", "list", fleet).code == 0
    assert edgeexit("keys", "list", fleet, "--within-days", 366).code == 1
    later = utc_now() + timedelta(days=340)
    monkeypatch.setattr("edgeexit.pki.certificates.utc_now", lambda: later)
    outcome = edgeexit("keys", "list", fleet, "--json")
    ending = ["crl.pem", "a", "b", "broker", "edgeexit-calibrator-shop", "edgeexit-operator-shop"]
    assert (outcome.code, sorted(json.loads(outcome.out)["ending"])) == (1, sorted(ending))


def test_renew_renews_what_is_named(edgeexit, fleet):
    before = (fleet / "devices" / "a" / "tls.crt").read_bytes()
    (entry,) = json.loads(edgeexit("keys", "renew", fleet, "a", "--json").out)
    assert (entry["name"], entry["is_new"]) == ("a", True)
    assert (fleet / "devices" / "a" / "tls.crt").read_bytes() != before
    assert edgeexit("keys", "renew", fleet).out.count(" new ") == 0
    assert edgeexit("keys", "renew", fleet, "--within-days", 400).out.count(" new ") == 6


def test_revoke_names_the_list_and_the_next_step(edgeexit, fleet):
    outcome = edgeexit("keys", "revoke", fleet, "a")
    assert f"next: copy {fleet / 'ca' / 'crl.pem'} to the broker, reload it (kill -HUP), then:" in outcome.out
    names = [entry["name"] for entry in json.loads(edgeexit("keys", "list", fleet, "--json").out)["certificates"]]
    assert "a" not in names
    assert "valid until" in edgeexit("keys", "crl", fleet).out


def test_identity_shows_the_public_key_for_approval(edgeexit, tmp_path):
    identity = DeviceIdentity(tmp_path)
    shown = json.loads(edgeexit("keys", "identity", tmp_path, "--json").out)
    assert shown["key"] == identity.public_key
    assert f"edgeexit calibrator approve DEVICE --key {shown['id']}" in edgeexit("keys", "identity", tmp_path).out


def test_a_policy_key_is_rotated_by_a_key_set_that_root_signs(edgeexit, fleet, tmp_path):
    first, following, root = fleet / "calibrator" / "key_set.json", tmp_path / "next.json", fleet / "root" / "root.key"
    edgeexit("keygen", tmp_path / "new.key")
    created = edgeexit("keys", "set", "create", following, "--follows", first, "--policy", tmp_path / "new.pub")
    assert "Key set 2 of fleet shop, 0 signatures" in created.out
    trust = ("--trust", fleet / "root" / "root.pub")
    assert "not signed by the root keys" in edgeexit("keys", "set", "show", following, *trust).err
    assert "1 signatures" in edgeexit("keys", "set", "sign", following, "--key", root).out
    assert "devices that trust these keys accept this key set" in edgeexit("keys", "set", "show", following, *trust).out
    trusted = TrustedKeys.configured("shop", trusted=[load_public_key(fleet / "root" / "root.pub")])
    trusted = trusted.updated(following.read_bytes())
    assert (trusted.version, trusted.keys("policy")) == (2, (load_public_key(tmp_path / "new.pub"),))
    shown = json.loads(edgeexit("keys", "set", "show", following, "--json").out)
    assert (shown["key_set"]["version"], shown["signatures"]) == (2, 1)


def test_two_of_three_people_sign_a_key_set_one_after_the_other(edgeexit, tmp_path):
    for name in "abc":
        edgeexit("keygen", tmp_path / f"{name}.key")
    file = tmp_path / "set.json"
    roots = [part for name in "abc" for part in ("--root", tmp_path / f"{name}.pub")]
    policy = ("--policy", tmp_path / "a.pub")
    create = ("keys", "set", "create", file, "--fleet", "shop", *roots, *policy, "--root-threshold", 2)
    assert edgeexit(*create).code == 0
    trust = [part for name in "abc" for part in ("--trust", tmp_path / f"{name}.pub")]
    edgeexit("keys", "set", "sign", file, "--key", tmp_path / "a.key")
    edgeexit("keys", "set", "sign", file, "--key", tmp_path / "a.key")
    assert "only 1 of the 2" in edgeexit("keys", "set", "show", file, *trust).err
    edgeexit("keys", "set", "sign", file, "--key", tmp_path / "c.key")
    assert edgeexit("keys", "set", "show", file, *trust, "--policy-threshold", 2).code == 0
    assert "files of key sets are not overwritten" in edgeexit(*create).err


def test_a_signature_that_no_device_counts_is_refused(edgeexit, fleet, tmp_path):
    following = tmp_path / "next.json"
    edgeexit("keygen", tmp_path / "other.key")
    edgeexit("keys", "set", "create", following, "--follows", fleet / "calibrator" / "key_set.json")
    before = following.read_bytes()
    outcome = edgeexit("keys", "set", "sign", following, "--key", tmp_path / "other.key")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "is a root key neither in the last key set" in outcome.err
    assert following.read_bytes() == before
    edgeexit("keys", "set", "create", tmp_path / "first.json", "--fleet", "shop", "--root", tmp_path / "other.pub",
             "--policy", tmp_path / "other.pub")  # fmt: skip
    outcome = edgeexit("keys", "set", "sign", tmp_path / "first.json", "--key", fleet / "root" / "root.key")
    assert outcome.code == 0
    assert "counts only if it is in the devices' trusted_keys" in outcome.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--root", "a.pub", "--policy", "a.pub"), "needs --fleet"),
        (("--fleet", "shop", "--root", "a.pub"), "role 'policy' needs at least one key"),
        (("--fleet", "shop", "--root", "a.pub", "--policy", "a.pub", "--root-threshold", "2"), "a threshold of 2"),
        (("--fleet", "shop", "--root", "a.pub", "--root", "a.pub", "--policy", "a.pub"), "a key twice"),
        (("--fleet", "a/b", "--root", "a.pub", "--policy", "a.pub"), "fleet"),
        (("--fleet", "shop", "--root", "a.key", "--policy", "a.pub"), "is not a public key"),
        (("--fleet", "shop", "--root", "a.pub", "--policy", "a.pub", "--bundle-threshold", "1"), "without keys"),
        (("--follows", "a.pub"), "not a history of key sets"),
        (("--follows", "none.json"), "cannot be read"),
    ],
)
def test_a_key_set_that_makes_no_sense_is_not_created(edgeexit, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    edgeexit("keygen", "a.key")
    outcome = edgeexit("keys", "set", "create", "set.json", *options)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert reason in outcome.err
    assert not (tmp_path / "set.json").exists()


@pytest.mark.parametrize("command", [("sign", "--key", "root.key"), ("show",)])
def test_a_file_that_is_no_key_set_is_named(edgeexit, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    edgeexit("keygen", "root.key")
    for content in (b"", b"[{}]", b"[]", b"\xff", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
        outcome = edgeexit("keys", "set", command[0], "x.json", *command[1:])
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
        assert "file of key sets 'x.json'" in outcome.err
        assert (tmp_path / "x.json").read_bytes() == content
