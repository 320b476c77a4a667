"""The identity key of a device: created once, kept, and never silently replaced."""

import logging
import os
import shutil
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeexit.agent.fleet_link.identity import DAMAGED, FILE, DeviceIdentity, read_identity
from edgeexit.agent.state_lock import lock_state_dir
from edgeexit.errors import SignatureError
from edgeexit.signing import encode_private_key, generate_key, load_private_key, public_key_text
from edgeexit.wire import Audit, AuditedSample, encode
from edgeexit.wire.audit_signing import verify_audit
from tests.disks import fill, remount, small_disk

TOPIC = "edgeexit/v1/shop/s0/camera/up/audit"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_key_is_created_once_with_mode_0600_for_every_umask(tmp_path):
    old = os.umask(0)
    try:
        first = DeviceIdentity(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    second = DeviceIdentity(tmp_path)
    assert first.public_key == second.public_key == read_identity(tmp_path)
    assert first.problem is second.problem is None


def test_an_audit_is_signed_with_the_key_that_the_state_names(tmp_path):
    identity = DeviceIdentity(tmp_path)
    sample = AuditedSample(exit=0, top1=(1, 1), p1=(0.5, 0.5), p2=(0.1, 0.1), entropy=(1.0, 1.0))
    audit = Audit(start="0" * 16, sequence=1, bundle="0" * 64, cohort="c", revision=1, samples=(sample,))
    payload = identity.sign_audit(encode(audit), topic=TOPIC)
    assert verify_audit(payload, topic=TOPIC) == (identity.public_key, audit)


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"\0" * 200, b"x" * 100_000], ids=["empty", "text", "zeros", "big"]
)
def test_a_damaged_file_is_set_aside_and_the_state_says_so(tmp_path, caplog, content):
    (tmp_path / FILE).write_bytes(content)
    identity = DeviceIdentity(tmp_path)
    if len(content) < 10_000:
        assert f"it is set aside as '{tmp_path / DAMAGED}'" in identity.problem
        assert (tmp_path / DAMAGED).read_bytes() == content
        assert read_identity(tmp_path) == identity.public_key
        assert DeviceIdentity(tmp_path).problem is None
    else:
        assert "larger than" in identity.problem
        assert (tmp_path / FILE).read_bytes() == content
    assert "new identity" in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 8 * 175 - 1))
def test_a_flipped_bit_never_makes_another_key_without_a_word(tmp_path, bit):
    for name in (FILE, DAMAGED):
        (tmp_path / name).unlink(missing_ok=True)
    before = DeviceIdentity(tmp_path).public_key
    content = bytearray((tmp_path / FILE).read_bytes())
    bit %= 8 * len(content)
    content[bit // 8] ^= 1 << bit % 8
    (tmp_path / FILE).write_bytes(content)
    after = DeviceIdentity(tmp_path)
    assert after.public_key == before or after.problem is not None


def test_a_key_that_the_owner_put_there_is_used(tmp_path):
    generate_key(tmp_path / FILE)
    expected = public_key_text(load_private_key(tmp_path / FILE).public_key())
    assert DeviceIdentity(tmp_path).public_key == expected


@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "another type", "encrypted"])
def test_what_is_not_a_readable_key_is_never_taken_for_one(tmp_path, kind):
    path, elsewhere = tmp_path / FILE, tmp_path / "elsewhere"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            generate_key(elsewhere)
            path.symlink_to(elsewhere)
        case "fifo":
            os.mkfifo(path)
        case "another type":
            path.write_bytes(encode_private_key(generate_private_key(SECP256R1())))
        case "encrypted":
            generate_key(path, passphrase="secret")  # noqa: S106
    identity = DeviceIdentity(tmp_path)
    assert "identity" in identity.problem
    assert identity.public_key
    with pytest.raises(SignatureError):
        read_identity(tmp_path / "other")


def test_a_file_that_cannot_be_read_stays_and_the_device_has_another_key_until_it_can(tmp_path, monkeypatch):
    first = DeviceIdentity(tmp_path)
    real = os.open

    def refuse(path, *arguments, **options):
        if os.fspath(path).endswith(FILE):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        other = DeviceIdentity(tmp_path)
        other.retry()
    assert other.public_key != first.public_key
    assert "cannot be read: Permission denied" in other.problem
    assert DeviceIdentity(tmp_path).public_key == first.public_key


def test_a_key_that_others_may_read_is_made_private_when_the_agent_takes_its_folder(tmp_path):
    key = DeviceIdentity(tmp_path).public_key
    (tmp_path / FILE).chmod(0o644)
    with lock_state_dir(tmp_path):
        assert DeviceIdentity(tmp_path).public_key == key
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_key_with_a_mode_that_cannot_be_changed_is_used(tmp_path):
    """A vfat card shows one mode for all files."""
    key = DeviceIdentity(tmp_path).public_key
    (tmp_path / FILE).chmod(0o777)
    identity = DeviceIdentity(tmp_path)
    assert (identity.public_key, identity.problem) == (key, None)


def test_a_key_that_found_no_room_is_stored_when_there_is_some(tmp_path, caplog):
    clock = Clock()
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        identity = DeviceIdentity(disk, clock=clock)
        assert "cannot be stored: No space left" in identity.problem
        filler.unlink()
        identity.retry()
        assert not (disk / FILE).exists(), "at most one attempt per minute"
        clock.now_s += 61
        identity.retry()
        assert identity.problem is None
        assert DeviceIdentity(disk).public_key == identity.public_key
        assert sum("cannot be stored" in record.message for record in caplog.records) == 1


def test_a_read_only_disk_gives_a_temporary_key_and_keeps_a_stored_one(tmp_path):
    clock = Clock()
    with small_disk(tmp_path / "disk") as disk:
        remount(disk, read_only=True)
        identity = DeviceIdentity(disk, clock=clock)
        assert "Read-only file system" in identity.problem
        remount(disk, read_only=False)
        clock.now_s += 61
        identity.retry()
        remount(disk, read_only=True)
        assert DeviceIdentity(disk).public_key == identity.public_key
        assert DeviceIdentity(disk).problem is None
        remount(disk, read_only=False)


def test_the_key_survives_a_state_folder_that_is_removed_and_made_again(tmp_path):
    clock, folder = Clock(), tmp_path / "state"
    folder.mkdir()
    identity = DeviceIdentity(folder, clock=clock)
    shutil.rmtree(folder)
    clock.now_s += 61
    identity.retry()
    assert not folder.exists(), "whoever locks the folder creates it"
    assert "cannot be stored: No such file" in identity.problem
    folder.mkdir()
    clock.now_s += 61
    identity.retry()
    assert (identity.problem, read_identity(folder)) == (None, identity.public_key)


def test_the_key_of_another_agent_in_the_folder_is_not_replaced(tmp_path):
    clock = Clock()
    identity = DeviceIdentity(tmp_path, clock=clock)
    (tmp_path / FILE).unlink()
    other = DeviceIdentity(tmp_path)
    clock.now_s += 61
    identity.retry()
    assert read_identity(tmp_path) == other.public_key


def test_no_log_line_and_no_error_contains_a_private_key(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    DeviceIdentity(tmp_path)
    secret = (tmp_path / FILE).read_text().splitlines()[2]
    content = (tmp_path / FILE).read_text().replace("PRIVATE KEY", "PRIVAT KEY")
    (tmp_path / FILE).write_text(content)
    problem = DeviceIdentity(tmp_path).problem
    assert problem
    assert secret[-20:] not in caplog.text + problem
