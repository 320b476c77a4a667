"""Which policy is active: pending while the disk fails, on trial when it is new, reverted when it fails."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent.policy.active_policy import PolicySelector
from edgeexit.agent.policy.check import Recipient
from edgeexit.agent.policy.store import PolicyStore
from edgeexit.agent.policy.trial_marker import FILE, TrialMarker
from edgeexit.bundle import Bundle
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import Scope
from edgeexit.signing import PrivateKey
from tests.disks import fill, remount, small_disk

MakeEnvelope = Callable[..., bytes]
DEVICE = Scope(fleet="plant", device="press-7")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Starts:
    """Starts the policy side of an agent in a state folder, as a process would."""

    def __init__(self, folder: Path, bundle: Bundle, recipient: Recipient, trusted: TrustedKeys) -> None:
        self.folder = folder
        self.clock = Clock()
        self.trusted = trusted
        self._bundle = bundle
        self._recipient = recipient
        self._boot = folder.parent / "boot_id"

    def __call__(self, *, boot: str = "first", window_s: float = 60.0) -> PolicySelector:
        self._boot.write_text(boot)
        return PolicySelector(
            self._bundle,
            PolicyStore(self.folder, self._recipient),
            TrialMarker(self.folder, boot_id=self._boot),
            self._recipient,
            self.trusted,
            crash_window_s=window_s,
            clock=self.clock,
        )


@pytest.fixture
def starts(tmp_path: Path, bundle: Bundle, recipient: Recipient, trusted: TrustedKeys) -> Starts:
    return Starts(tmp_path / "state", bundle, recipient, trusted)


def accept(starts: Starts, selector: PolicySelector, envelope: bytes) -> None:
    """Receive a policy that passes its trial."""
    selector.receive(envelope)
    starts.clock.now += 60
    selector.end_crash_window()
    selector.pass_trial()


def test_a_policy_that_arrives_while_the_disk_is_full_is_used_when_there_is_room(
    starts: Starts, make_envelope: MakeEnvelope, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(starts.folder):
        selector = starts()
        accept(starts, selector, make_envelope(3))
        filler = fill(starts.folder)
        selector.receive(make_envelope(4))
        for _ in range(20):
            selector.retry()
            starts.clock.now += 1
        assert (selector.active.revision, selector.summary.accepted, selector.summary.rejected) == (3, 3, None)
        assert selector.summary.problems == (
            "policy revision 4 is accepted, but cannot be stored: No space left on device",
        )
        assert caplog.text.count("cannot be stored") == 1
        selector.receive(make_envelope(5))
        assert "revision 5 is accepted, but cannot be stored" in selector.summary.problems[0], (
            "the newer one replaces it"
        )
        selector.receive(make_envelope(4))
        assert selector.summary.rejected is not None
        assert "revision 4 is lower than 5, which is pending" in selector.summary.rejected.reason
        filler.unlink()
        starts.clock.now += 60
        selector.retry()
        assert (selector.active.revision, selector.summary.accepted, selector.summary.problems) == (5, 5, ())
        assert starts().summary.accepted == 5


def test_a_policy_that_arrives_while_the_disk_is_read_only_is_used_when_it_is_writable_again(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    with small_disk(starts.folder):
        selector = starts()
        remount(starts.folder, read_only=True)
        selector.receive(make_envelope(4))
        assert "Read-only file system" in selector.summary.problems[0]
        remount(starts.folder, read_only=False)
        selector.retry()
        assert selector.active.revision == 0, "not before the back-off is over"
        starts.clock.now += 1
        selector.retry()
        assert (selector.active.revision, selector.summary.problems) == (4, ())


def test_the_retries_become_rare(starts: Starts, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[float] = []

    def fail(*_: Any) -> None:
        attempts.append(starts.clock.now)
        raise OSError(5, "Input/output error")

    selector = starts(window_s=0)
    monkeypatch.setattr(PolicyStore, "save_newest", fail)
    selector.receive(make_envelope(4))
    for _ in range(600):
        starts.clock.now += 1
        selector.retry()
    assert [round(b - a) for a, b in pairwise(attempts)][:7] == [1, 2, 4, 8, 16, 32, 60]
    assert len(attempts) < 20


def test_a_removed_state_folder_is_created_again_for_the_next_policy(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    selector = starts()
    selector.receive(make_envelope(4))
    for path in starts.folder.iterdir():
        path.unlink()
    starts.folder.rmdir()
    selector.receive(make_envelope(5))
    assert (selector.active.revision, selector.summary.problems) == (5, ())
    assert starts.folder.stat().st_mode & 0o777 == 0o700


def test_a_crash_soon_after_a_policy_was_applied_reverts_it_for_ever(
    starts: Starts, make_envelope: MakeEnvelope, caplog: pytest.LogCaptureFixture
) -> None:
    selector = starts()
    accept(starts, selector, make_envelope(3, exits=3))
    selector.receive(make_envelope(4))
    assert selector.in_crash_window
    again = starts()  # without `close`: the process has crashed
    assert (again.active.revision, again.summary.accepted) == (3, 4)
    assert again.summary.reverted is not None
    assert again.summary.reverted.revision == 4
    assert "policy revision 4 is reverted: the process ended" in caplog.text
    again.receive(make_envelope(4))
    assert (again.active.revision, again.summary.rejected) == (3, None)
    third = starts()
    assert (third.active.revision, third.summary.accepted) == (3, 4)
    third.receive(make_envelope(5))
    assert (third.active.revision, third.summary.reverted) == (5, None)


def test_without_a_last_good_policy_the_shipped_one_follows_a_crash(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    starts().receive(make_envelope(4))
    again = starts()
    assert (again.active.revision, again.summary.accepted) == (0, 4)


def test_a_policy_is_not_reverted_after_a_clean_stop_or_a_minute_or_if_that_is_disabled(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    selector = starts()
    selector.receive(make_envelope(4))
    selector.close()
    selector = starts()
    assert selector.active.revision == 4
    assert selector.in_crash_window, "its trial begins again"
    starts.clock.now += 59.9
    selector.end_crash_window()
    assert selector.in_crash_window
    starts.clock.now += 0.2
    selector.end_crash_window()
    assert not (starts.folder / FILE).exists()
    selector = starts(window_s=0)
    assert selector.active.revision == 4
    selector.receive(make_envelope(5))
    assert starts(window_s=0).active.revision == 5


def test_the_second_power_cut_under_a_new_policy_reverts_it(starts: Starts, make_envelope: MakeEnvelope) -> None:
    starts(boot="first").receive(make_envelope(4))
    assert starts(boot="second").active.revision == 4
    third = starts(boot="third")
    assert (third.active.revision, third.summary.accepted) == (0, 4)


def test_a_policy_that_passed_its_trial_is_not_reverted_by_a_crash(starts: Starts, make_envelope: MakeEnvelope) -> None:
    accept(starts, starts(), make_envelope(4))
    again = starts()
    assert again.active.revision == 4
    assert again.on_trial is None
    assert not again.in_crash_window


def test_a_reversion_that_cannot_be_stored_holds_and_is_stored_later(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    with small_disk(starts.folder):
        selector = starts()
        accept(starts, selector, make_envelope(3))
        selector.receive(make_envelope(4))
        remount(starts.folder, read_only=True)
        selector.revert("no exit fires")
        assert (selector.active.revision, selector.summary.accepted) == (3, 4)
        remount(starts.folder, read_only=False)
        starts.clock.now += 1
        selector.retry()
        again = starts(window_s=0)
        assert (again.active.revision, again.summary.accepted) == (3, 4)


def test_after_the_device_policy_was_reverted_the_cohort_policy_is_active(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    selector = starts()
    accept(starts, selector, make_envelope(3))
    selector.receive(make_envelope(9, scope=DEVICE))
    assert (selector.active.revision, selector.summary.accepted) == (9, 9)
    selector.revert("too slow")
    assert (selector.active.revision, selector.summary.accepted) == (3, 3)
    assert selector.summary.reverted is not None
    assert selector.summary.reverted.revision == 9


def test_a_policy_of_a_revoked_key_is_replaced_by_the_last_good_one(
    starts: Starts, make_envelope: MakeEnvelope, key: PrivateKey
) -> None:
    stolen = PrivateKey.generate()
    both = TrustedKeys.configured("plant", policy=[key.public_key(), stolen.public_key()])
    starts.trusted = both
    selector = starts()
    accept(starts, selector, make_envelope(3))
    selector.receive(make_envelope(4, signed_by=stolen))
    assert selector.active.revision == 4
    selector.update_keys(TrustedKeys.configured("plant", policy=[key.public_key()]))
    assert (selector.active.revision, selector.summary.accepted) == (3, 4)
    assert "used for this cohort instead: revision 3" in selector.summary.problems[0]
    selector.receive(make_envelope(4))
    assert (selector.active.revision, selector.summary.problems) == (4, ()), "signed again with a key that is trusted"


def test_a_pending_policy_of_a_revoked_key_is_dropped(
    starts: Starts, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector = starts()
    with monkeypatch.context() as context:
        context.setattr(PolicyStore, "save_newest", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        selector.receive(make_envelope(4))
    selector.update_keys(TrustedKeys.configured("plant"))
    starts.clock.now += 60
    selector.retry()
    assert (selector.active.revision, selector.summary.problems) == (0, ())


def test_the_highest_revision_for_the_cohort_that_arrived_is_known(
    starts: Starts, make_envelope: MakeEnvelope, half: Any
) -> None:
    selector = starts()
    selector.receive(make_envelope(3))
    selector.receive(make_envelope(9, scope=DEVICE))
    selector.receive(make_envelope(7, bundle="f" * 64))
    selector.receive(b"garbage")
    assert selector.received == 3
    selector.receive(make_envelope(5, rollout=half))
    assert selector.received == 5
    assert starts().received == 3


def test_after_a_key_rotation_the_same_policy_signed_by_the_new_key_stays_active_without_the_old_key(
    starts: Starts, make_envelope: MakeEnvelope, key: PrivateKey
) -> None:
    successor = PrivateKey.generate()
    both = TrustedKeys.configured("plant", policy=[key.public_key(), successor.public_key()])
    only_new = TrustedKeys.configured("plant", policy=[successor.public_key()])
    starts.trusted = both
    selector = starts()
    accept(starts, selector, make_envelope(4))
    selector.receive(make_envelope(4, signed_by=successor))
    selector.update_keys(only_new)
    assert (selector.active.revision, selector.summary.problems, selector.on_trial) == (4, (), None)
    starts.trusted = only_new
    again = starts()
    assert (again.active.revision, again.summary.problems, again.on_trial) == (4, (), None)


def test_after_a_key_was_replaced_at_once_the_same_policy_signed_by_the_new_key_is_taken_again(
    starts: Starts, make_envelope: MakeEnvelope
) -> None:
    selector = starts()
    accept(starts, selector, make_envelope(4))
    successor = PrivateKey.generate()
    selector.update_keys(TrustedKeys.configured("plant", policy=[successor.public_key()]))
    assert (selector.active.revision, selector.summary.accepted) == (0, 4)
    selector.receive(make_envelope(4, signed_by=successor))
    assert (selector.active.revision, selector.summary.problems) == (4, ())


def test_two_envelopes_of_one_policy_that_alternate_wear_no_flash(
    starts: Starts, make_envelope: MakeEnvelope, key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PrivateKey.generate()
    starts.trusted = TrustedKeys.configured("plant", policy=[key.public_key(), other.public_key()])
    selector = starts()
    accept(starts, selector, make_envelope(4))
    writes: list[str] = []
    write = PolicyStore._write

    def count(store: PolicyStore, kind: Any, slot: Any, content: bytes) -> None:
        writes.append(kind)
        write(store, kind, slot, content)

    monkeypatch.setattr(PolicyStore, "_write", count)
    for turn in range(100):
        selector.receive(make_envelope(4, signed_by=(other, key)[turn % 2]))
    assert writes == ["last_good", "policy"]


def test_the_marker_is_written_before_the_policy_so_that_no_crash_is_missed(
    starts: Starts, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector = starts()
    store = PolicyStore.save_newest

    def be_killed(*arguments: Any) -> None:
        store(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(PolicyStore, "save_newest", be_killed)
    with pytest.raises(KeyboardInterrupt):
        selector.receive(make_envelope(4))
    again = starts()
    assert (again.active.revision, again.summary.accepted) == (0, 4)


def test_a_marker_that_a_read_only_disk_keeps_is_removed_later_so_that_a_later_crash_reverts_nothing(
    tmp_path: Path, bundle: Bundle, recipient: Recipient, trusted: TrustedKeys, make_envelope: MakeEnvelope
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        starts = Starts(disk / "state", bundle, recipient, trusted)
        selector = starts()
        selector.receive(make_envelope(4))
        remount(disk, read_only=True)
        starts.clock.now += 61
        selector.end_crash_window()
        assert not selector.in_crash_window
        remount(disk, read_only=False)
        selector.end_crash_window()
        assert not (starts.folder / FILE).exists()
        assert starts().active.revision == 4
