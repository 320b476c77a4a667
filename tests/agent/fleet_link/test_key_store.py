"""Key sets on a device: used at once, stored twice, and never replaced by an older one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeexit.agent.fleet_link.key_store import KeyStore
from edgeexit.errors import SignatureError
from edgeexit.key_set import KEY_SET_TYPE, KeySet, RoleKeys, TrustedKeys, encode_history, encode_key_set
from edgeexit.signing import PrivateKey, public_key_text, sign
from tests.disks import fill, small_disk

ROOT, NEXT_ROOT, POLICY, NEXT_POLICY = (PrivateKey.generate() for _ in range(4))


def history(*versions: int, root: PrivateKey = ROOT, policy: PrivateKey = NEXT_POLICY) -> bytes:
    """Return a history in which `root` signs each version."""
    envelopes = []
    for version in versions:
        key_set = KeySet(
            fleet="plant",
            version=version,
            roles={
                "root": RoleKeys(keys=(public_key_text(root.public_key()),)),
                "policy": RoleKeys(keys=(public_key_text(policy.public_key()),)),
            },
        )
        envelopes.append(sign(encode_key_set(key_set), payload_type=KEY_SET_TYPE, keys=[ROOT, root]))
    return encode_history(envelopes)


def open_store(folder: Path, *, clock: Callable[[], float] = lambda: 0.0) -> KeyStore:
    configured = TrustedKeys.configured("plant", trusted=[ROOT.public_key()], policy=[POLICY.public_key()])
    return KeyStore(folder, "plant", configured, clock=clock)


def policy_keys(store: KeyStore) -> set[bytes]:
    return {key.public_bytes_raw() for key in store.trusted.keys("policy")}


def test_a_key_set_decides_from_its_arrival_on_and_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.trusted.version == 0
    assert store.receive(history(1))
    assert policy_keys(store) == {NEXT_POLICY.public_key().public_bytes_raw()}
    assert not store.receive(history(1)), "the retained message again"
    again = open_store(tmp_path)
    assert (again.trusted.version, again.problem) == (1, None)
    assert policy_keys(again) == policy_keys(store)


def test_an_older_set_and_one_of_another_root_key_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.receive(history(3))
    for wrong in (history(2), encode_history([sign(b"{}", payload_type=KEY_SET_TYPE, keys=[POLICY])]), b"garbage"):
        with pytest.raises(SignatureError):
            store.receive(wrong)
    assert open_store(tmp_path).trusted.version == 3


def test_a_rotated_root_key_is_found_again_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.receive(history(1, root=NEXT_ROOT))
    third = KeySet(
        fleet="plant",
        version=2,
        roles={role: RoleKeys(keys=(public_key_text(NEXT_ROOT.public_key()),)) for role in ("root", "policy")},  # type: ignore[arg-type]
    )
    envelope = sign(encode_key_set(third), payload_type=KEY_SET_TYPE, keys=[NEXT_ROOT])
    store.receive(encode_history([envelope]))
    assert open_store(tmp_path).trusted.version == 2


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_one_damaged_file_does_not_bring_a_revoked_key_back(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    open_store(tmp_path).receive(history(1))
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        damage(path)
        assert open_store(tmp_path).trusted.version == 1
        path.write_bytes(content)


def test_two_damaged_files_are_a_problem_until_the_key_set_arrives_again(tmp_path: Path) -> None:
    open_store(tmp_path).receive(history(1))
    for path in tmp_path.iterdir():
        _flip(path)
    store = open_store(tmp_path)
    assert store.trusted.version == 0
    assert store.problem is not None
    assert "the keys of the configuration are trusted until it arrives again" in store.problem
    store.receive(history(1))
    assert store.problem is None
    assert open_store(tmp_path).trusted.version == 1


def test_on_a_full_disk_a_key_set_is_used_and_stored_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        now = 0.0
        store = open_store(disk, clock=lambda: now)
        filler = fill(disk)
        assert store.receive(history(1))
        for _ in range(10):
            store.retry()
        assert store.trusted.version == 1
        assert store.problem == "key set version 1 cannot be stored: No space left on device"
        assert caplog.text.count("cannot be stored") == 1
        filler.unlink()
        store.retry()
        assert store.problem is not None, "not again within 10 s"
        now += 10
        store.retry()
        assert store.problem is None
        assert open_store(disk).trusted.version == 1


def test_key_sets_of_another_fleet_in_the_same_folder_are_not_read(tmp_path: Path) -> None:
    open_store(tmp_path).receive(history(1))
    other = KeyStore(tmp_path, "foundry", TrustedKeys.configured("foundry", trusted=[ROOT.public_key()]))
    assert (other.trusted.version, other.problem) == (0, None)


@pytest.mark.parametrize("damage", [_flip, Path.unlink])
def test_a_damaged_copy_is_written_again_so_that_damage_of_the_other_one_later_is_harmless(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    open_store(tmp_path).receive(history(1))
    for path in sorted(tmp_path.iterdir()):
        damage(path)
        store = open_store(tmp_path)
        store.retry()
        assert store.problem is None
    assert open_store(tmp_path).trusted.version == 1
