"""The folder of a fleet's keys: nothing is overwritten, interruptions do no harm, only the owner can read it."""

import os
import shutil
import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from edgeexit.agent import AgentConfig
from edgeexit.errors import ConfigError, EdgeExitError, SignatureError
from edgeexit.files import write_atomic
from edgeexit.key_set import TrustedKeys
from edgeexit.pki import AuthorityFolder, FleetPlan, create_fleet, fleet_folder
from edgeexit.pki.certificates import utc_now
from edgeexit.pki.fleet_folder import device_names
from edgeexit.signing import load_public_key

PLAN = FleetPlan(fleet="shop", hosts=("broker.example",), devices=("camera-1", "camera-2"))


def make(folder, plan=PLAN, **options):
    with AuthorityFolder(folder, create=True, passphrase=options.get("passphrase")) as authority:
        return create_fleet(authority, plan, **options)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "fleet"
    make(folder)
    return folder


@pytest.mark.parametrize("umask", [0, 0o777])
def test_private_keys_and_folders_are_only_for_the_owner_whatever_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try:
        make(tmp_path / "fleet")
    finally:
        os.umask(old)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "fleet", *(tmp_path / "fleet").rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.suffix == ".key"} == {0o600}
    assert {mode for path, mode in modes.items() if path.is_file() and path.suffix != ".key"} == {0o644}
    assert sum(path.suffix == ".key" for path in modes) == 10


def test_the_same_command_again_changes_nothing_and_adds_devices(made):
    before = contents(made)
    again = make(made)
    assert not any(entry.is_new for entry in again)
    assert contents(made) == before
    more = make(made, msgspec.structs.replace(PLAN, devices=("camera-2", "camera-3")))
    assert [entry.name for entry in more if entry.is_new] == ["camera-3"]
    assert {path: content for path, content in contents(made).items() if path in before} == before


class Interruption(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("seed", range(0, 45, 4))
def test_a_command_that_was_interrupted_anywhere_continues(tmp_path, monkeypatch, seed):
    folder, writes = tmp_path / "fleet", []

    def write_some(path, content, *, mode=0o644):
        writes.append(path)
        if len(writes) == seed + 1:
            raise Interruption
        write_atomic(path, content, mode=mode)

    with monkeypatch.context() as patch:
        for where in ("edgeexit.pki.authority_folder", "edgeexit.pki.fleet_folder", "edgeexit.signing"):
            patch.setattr(f"{where}.write_atomic", write_some)
        try:
            make(folder)
        except Interruption:
            interrupted = contents(folder)
        else:
            pytest.fail(f"{len(writes)} writes are fewer than {seed}")
    entries = make(folder)
    now = contents(folder)
    assert {path: now[path] for path in interrupted if path.suffix == ".key"} == {
        path: content for path, content in interrupted.items() if path.suffix == ".key"
    }, "no key is replaced"
    check_fleet(folder, entries)


def check_fleet(folder, entries):
    """Check that everything fits together."""
    ca = x509.load_pem_x509_certificate((folder / "ca" / "ca.crt").read_bytes())
    issued = list((folder / "ca" / "issued").iterdir())
    assert len(issued) == len(entries) - 1, "each certificate was issued once"
    for entry in entries[1:]:
        certificate = x509.load_pem_x509_certificate(Path(entry.path).read_bytes())
        certificate.verify_directly_issued_by(ca)
    for device in PLAN.devices:
        config = AgentConfig.load(folder / "devices" / device / "agent.toml")
        assert (config.device, config.fleet, list(config.broker_warnings())) == (device, "shop", [])
        assert config.broker.url == "mqtts://broker.example:8883"
        trusted = TrustedKeys.configured("shop", trusted=[load_public_key(folder / "devices" / device / "root.pub")])
        assert trusted.updated((folder / "calibrator" / "key_set.json").read_bytes()).version == 1
    crl = x509.load_pem_x509_crl((folder / "broker" / "crl.pem").read_bytes())
    assert crl.is_signature_valid(ca.public_key())


def test_a_fleet_fits_together(tmp_path):
    check_fleet(tmp_path / "fleet", make(tmp_path / "fleet"))


def test_what_was_moved_to_where_it_is_used_is_not_created_again(tmp_path):
    folder = tmp_path / "fleet"
    make(folder)
    for moved in ("broker", "calibrator", "operator", "release", "devices/camera-1"):
        shutil.move(folder / moved, tmp_path / moved.replace("/", "-"))
    (folder / "root" / "root.key").unlink()
    before = contents(folder)
    more = make(folder, msgspec.structs.replace(PLAN, devices=(*PLAN.devices, "camera-3")))
    assert [entry.name for entry in more if entry.is_new] == ["camera-3"]
    now = contents(folder)
    assert {path.parts[:2] for path in now.keys() - before.keys()} == {("devices", "camera-3"), ("ca", "issued")}
    assert now.items() >= before.items()
    public = (tmp_path / "calibrator" / "policy.pub").read_bytes()
    assert (folder / "devices" / "camera-3" / "policy.pub").read_bytes() == public
    with AuthorityFolder(folder) as authority:
        authority.revoke("camera-1")
        assert authority.device("camera-1").is_new


@pytest.mark.parametrize(
    "change",
    [
        {"fleet": "a/b"},
        {"fleet": "a" * 50},
        {"devices": ("ok", "edgeexit-calibrator-shop")},
        {"devices": ("ok", "broker")},
        {"devices": ("ok", "../x")},
        {"devices": ("#",)},
        {"shards": ("keys",)},
        {"cohort": ""},
    ],
    ids=str,
)
def test_nothing_is_created_for_a_plan_with_an_invalid_name(tmp_path, change):
    with pytest.raises(EdgeExitError):
        msgspec.structs.replace(PLAN, **change).check()
    with AuthorityFolder(tmp_path / "fleet", create=True) as authority, pytest.raises(EdgeExitError):
        create_fleet(authority, msgspec.structs.replace(PLAN, **change))
    assert not (tmp_path / "fleet" / "ca" / "ca.key").exists()


def test_devices_are_numbered_or_named():
    assert device_names("3") == ("device-1", "device-2", "device-3")
    assert device_names("10")[0] == "device-01"
    assert device_names("a, b,a") == ("a", "b")
    for wrong in ("0", "99999", "", "a,,b", "a/b", "٣", "-3", "9" * 5000):
        with pytest.raises(EdgeExitError):
            device_names(wrong)


def test_a_folder_of_another_fleet_is_an_error_that_says_what_to_do(made):
    with pytest.raises(
        ConfigError, match=r"'edgeexit-calibrator-shop', not of 'edgeexit-calibrator-other'; give the name"
    ):
        make(made, msgspec.structs.replace(PLAN, fleet="other"))


def test_a_broker_whose_certificate_lacks_a_host_is_an_error_that_says_what_to_do(made):
    with pytest.raises(ConfigError, match=r"not valid for host other\.example; revoke it"):
        make(made, msgspec.structs.replace(PLAN, hosts=("broker.example", "other.example")))


def test_two_commands_at_once_are_refused(made):
    with AuthorityFolder(made), pytest.raises(ConfigError, match="another `edgeexit keys` command"):
        AuthorityFolder(made).__enter__()


def test_a_folder_without_an_authority_is_not_touched(tmp_path):
    with pytest.raises(ConfigError, match="has no certificate authority"):
        AuthorityFolder(tmp_path / "none").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_revocation_survives_an_interruption_and_the_name_can_be_used_again(tmp_path, monkeypatch):
    folder = tmp_path / "fleet"
    make(folder)
    old = (folder / "devices" / "camera-1" / "tls.crt").read_bytes()
    with AuthorityFolder(folder) as authority:
        monkeypatch.setattr(authority, "_set_aside", lambda _: (_ for _ in ()).throw(Interruption))
        with pytest.raises(Interruption):
            authority.revoke("camera-1")
    with AuthorityFolder(folder) as authority:
        with pytest.raises(ConfigError, match="is revoked; give `edgeexit keys revoke"):
            authority.device("camera-1")
        authority.revoke("camera-1")
        assert "camera-1" not in [entry.name for entry in authority.certificates()]
        assert authority.device("camera-1").is_new
        with pytest.raises(ConfigError, match="no certificate for 'camera-9'"):
            authority.revoke("camera-9")
    assert (folder / "devices" / "camera-1" / "tls.crt").read_bytes() != old
    crl = x509.load_pem_x509_crl((folder / "broker" / "crl.pem").read_bytes())
    assert len(list(crl)) == 1
    assert len(list((folder / "revoked").glob("camera-1-*/tls.key"))) == 1


def test_revoking_the_calibrator_leaves_its_signing_key_where_it_is(tmp_path):
    make(tmp_path / "fleet")
    with AuthorityFolder(tmp_path / "fleet") as authority:
        authority.revoke("edgeexit-calibrator-shop")
    assert sorted(path.name for path in (tmp_path / "fleet" / "calibrator").iterdir()) == [
        "ca.crt",
        "key_set.json",
        "policy.key",
        "policy.pub",
    ]


def test_a_lost_revocation_list_is_not_replaced_by_an_empty_one(tmp_path):
    make(tmp_path / "fleet")
    (tmp_path / "fleet" / "ca" / "crl.pem").unlink()
    with AuthorityFolder(tmp_path / "fleet") as authority:
        for command in (authority.renew_crl, lambda: authority.revoke("camera-1"), lambda: authority.device("new")):
            with pytest.raises(SignatureError, match=r"copy crl\.pem back from the broker"):
                command()


def test_certificates_are_renewed_without_their_private_keys(tmp_path):
    folder, now = tmp_path / "fleet", utc_now()
    make(folder)
    key = (folder / "devices" / "camera-1" / "tls.key").read_bytes()
    (folder / "devices" / "camera-2" / "tls.key").unlink()
    with AuthorityFolder(folder, clock=lambda: now + timedelta(days=340)) as authority:
        renewed = authority.renew(within_days=30)
        assert {entry.name for entry in renewed} == {
            "broker",
            "camera-1",
            "camera-2",
            "edgeexit-calibrator-shop",
            "edgeexit-operator-shop",
        }
        assert authority.renew(within_days=30) == []
        (entry,) = authority.renew_ending_crl(within_days=30)
        assert {entry.ends, *(one.ends for one in renewed)} == {now + timedelta(days=340 + 365)}
        assert authority.renew_ending_crl(within_days=30) == []
        with pytest.raises(ConfigError, match="no certificate for 'camera-9'"):
            authority.renew(["camera-9"], within_days=30)
        revoked = authority.revoke("camera-1")
        assert len(revoked) == 2, "the old and the new certificate"
    assert next((folder / "revoked").glob("camera-1-*")).joinpath("tls.key").read_bytes() == key
    broker = x509.load_pem_x509_certificate((folder / "broker" / "tls.crt").read_bytes())
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]


def test_keys_that_no_service_needs_can_have_a_passphrase(tmp_path):
    folder = tmp_path / "fleet"
    make(folder, new_passphrase="secret", passphrase=lambda: "secret")  # noqa: S106
    encrypted = {path.name for path in folder.rglob("*.key") if "ENCRYPTED" in path.read_text()}
    assert encrypted == {"ca.key", "root.key", "bundle.key"}
    with AuthorityFolder(folder) as authority, pytest.raises(SignatureError, match="is encrypted"):
        authority.device("new")
    with AuthorityFolder(folder, passphrase=lambda: "secret") as authority:
        assert authority.device("new").is_new


@pytest.mark.parametrize("name", ["ca/ca.crt", "ca/ca.key", "devices/camera-1/tls.crt"])
def test_a_damaged_file_is_named_and_not_replaced(tmp_path, name):
    folder = tmp_path / "fleet"
    make(folder)
    (folder / name).write_text("nothing")
    with pytest.raises(SignatureError, match=name), AuthorityFolder(folder) as authority:
        authority.device("camera-1")
    assert (folder / name).read_text() == "nothing"


def test_the_key_of_another_authority_is_noticed(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    (tmp_path / "a" / "ca" / "ca.key").write_bytes((tmp_path / "b" / "ca" / "ca.key").read_bytes())
    with AuthorityFolder(tmp_path / "a") as authority, pytest.raises(SignatureError, match="is not the key of"):
        authority.device("new")


def test_the_folder_holds_a_readme_that_names_what_is_there(made):
    text = (made / "README.md").read_text()
    for name in ("broker", "calibrator", "operator", "release", "ca", "root", "public"):
        assert f"`{name}/`" in text
        assert (made / name).is_dir()
    assert fleet_folder.KEY_SET_FILE in text
    assert "$" not in text
