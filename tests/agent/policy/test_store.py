"""Stored policies: after a crash the old or the new one, and never a lower revision, even if files are damaged."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgeexit.agent.policy.check import Accepted, PolicySlot, Recipient, check_policy
from edgeexit.agent.policy.saver import PolicySaver
from edgeexit.agent.policy.slot import SlotPolicies
from edgeexit.agent.policy.store import PolicyStore, SlotRecord
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import Scope, decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.wire import Rejection, Reversion
from tests.agent.conftest import MakeDocument

MakeEnvelope = Callable[..., bytes]


@pytest.fixture
def open_slot(tmp_path: Path, recipient: Recipient, trusted: TrustedKeys) -> Callable[..., SlotPolicies]:
    """Return a function that opens a slot of the device as at a start."""

    def open_(slot: PolicySlot = "cohort", *, recipient: Recipient = recipient) -> SlotPolicies:
        return SlotPolicies(slot, PolicyStore(tmp_path, recipient), recipient, trusted)

    return open_


@pytest.fixture
def accept(make_envelope: MakeEnvelope, trusted: TrustedKeys) -> Callable[..., None]:
    """Return a function that stores a policy in a slot, and makes it the last good one."""

    def accept_(slot: SlotPolicies, revision: int, *, passes: bool = True, **fields: object) -> None:
        envelope = make_envelope(revision, **fields)
        slot.accept(envelope, decode_document(trusted.verify(envelope, payload_type=PAYLOAD_TYPE, role="policy")))
        if passes:
            slot.pass_trial()

    return accept_


def used_revision(slot: SlotPolicies) -> int | None:
    return None if slot.used is None or slot.used.document is None else slot.used.document.revision


def test_policies_are_used_after_a_restart(
    open_slot: Callable[..., SlotPolicies], accept: Callable[..., None], make_document: MakeDocument
) -> None:
    accept(open_slot(), 7)
    accept(open_slot("device"), 2, scope=Scope(fleet="plant", device="press-7"))
    assert (used_revision(open_slot()), used_revision(open_slot("device"))) == (7, 2)
    assert open_slot().accepted == Accepted(7, make_document(7))
    assert open_slot().is_proven


@pytest.mark.parametrize(
    "moved_to",
    [{"bundle": "f" * 64}, {"cohort": "ovens"}, {"fleet": "foundry"}],
    ids=["another bundle", "another cohort", "another fleet"],
)
def test_a_device_that_returns_to_a_bundle_or_cohort_continues_from_its_revision_there(
    open_slot: Callable[..., SlotPolicies],
    accept: Callable[..., None],
    make_envelope: MakeEnvelope,
    recipient: Recipient,
    trusted: TrustedKeys,
    caplog: pytest.LogCaptureFixture,
    moved_to: dict[str, str],
) -> None:
    accept(open_slot(), 9)
    away = msgspec.structs.replace(recipient, **moved_to)
    assert open_slot(recipient=away).accepted == Accepted()
    scope = Scope(fleet=away.fleet, cohort=away.cohort)
    accept(open_slot(recipient=away), 2, scope=scope, bundle=away.bundle)
    assert used_revision(open_slot(recipient=away)) == 2
    back = open_slot()
    assert used_revision(back) == 9
    replayed = check_policy(make_envelope(3), trusted, recipient, {"cohort": back.accepted})
    assert isinstance(replayed, Rejection)
    assert "revision 3 is lower than the current revision 9" in replayed.reason
    assert caplog.records == [], "no warning about policies of other bundles, cohorts and fleets"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flip":
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "folder", "gone"])
@pytest.mark.parametrize("kind", ["policy", "last_good", "accepted"])
def test_a_damaged_file_never_lowers_the_revision_and_the_last_good_policy_is_used(
    open_slot: Callable[..., SlotPolicies],
    accept: Callable[..., None],
    make_envelope: MakeEnvelope,
    recipient: Recipient,
    trusted: TrustedKeys,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    how: str,
) -> None:
    slot = open_slot()
    accept(slot, 6)
    accept(slot, 7, passes=False)
    damage(next(tmp_path.glob(f"{kind}.*")), how)
    with caplog.at_level(logging.WARNING):
        again = open_slot()
    assert again.accepted.revision == 7
    assert used_revision(again) == (6 if kind == "policy" else 7)
    assert len(caplog.records) == (1 if kind == "policy" or how != "gone" else 0) + (
        kind == "policy" and how == "folder"
    )
    if kind == "policy":
        assert again.problem is not None
        assert "used for this cohort instead: revision 6" in again.problem
    held: dict[PolicySlot, Accepted] = {"cohort": again.accepted}
    assert isinstance(check_policy(make_envelope(6), trusted, recipient, held), Rejection)
    if kind == "policy" and how != "folder":
        accept(again, 7)
        assert used_revision(open_slot()) == 7, "the retained policy restores the file"


def test_every_flipped_bit_of_a_record_leaves_the_revision_and_the_reversion(
    open_slot: Callable[..., SlotPolicies], accept: Callable[..., None], tmp_path: Path
) -> None:
    slot = open_slot()
    accept(slot, 6)
    accept(slot, 7, passes=False)
    slot.hold_reverted(Reversion(revision=7, reason="no exit fires"))
    slot.store()
    path = next(tmp_path.glob("accepted.*"))
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (1, 64):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            again = open_slot()
            assert (again.accepted.revision, again.accepted.reverted, used_revision(again)) == (7, True, 6)
    again.store()
    assert path.read_bytes() == content, "the damaged copy is restored"


def test_a_reverted_policy_stays_reverted_after_a_restart(
    open_slot: Callable[..., SlotPolicies], accept: Callable[..., None]
) -> None:
    slot = open_slot()
    accept(slot, 6)
    accept(slot, 7, passes=False)
    slot.hold_reverted(Reversion(revision=7, reason="no exit fires"))
    slot.store()
    again = open_slot()
    assert (used_revision(again), again.accepted.revision, again.accepted.reverted) == (6, 7, True)
    accept(again, 8)
    assert open_slot().record == SlotRecord(accepted=8), "a newer policy replaces the reversion"


def test_a_policy_of_a_revoked_key_is_not_used_but_its_revision_counts(
    open_slot: Callable[..., SlotPolicies], accept: Callable[..., None], trusted: TrustedKeys
) -> None:
    slot = open_slot()
    accept(slot, 7)
    slot.verify(TrustedKeys.configured("plant"))
    assert slot.used is None
    assert slot.accepted == Accepted(7, None)
    assert slot.problem is not None
    slot.verify(trusted)
    assert (used_revision(slot), slot.problem) == (7, None)


def test_a_policy_in_the_file_of_another_slot_is_not_used(
    open_slot: Callable[..., SlotPolicies], accept: Callable[..., None], tmp_path: Path
) -> None:
    accept(open_slot(), 7)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("cohort.presses", "device.press-7"))
    assert open_slot("device").used is None


_STORING_LOOP = """
import sys
from pathlib import Path
from edgeexit.agent.policy.check import Recipient
from edgeexit.agent.policy.store import PolicyStore, SlotRecord
recipient = Recipient(fleet="plant", device="press-7", cohort="presses", bundle=sys.argv[3], exits=3, classes=4)
store = PolicyStore(Path(sys.argv[1]), recipient)
envelopes = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
for number, envelope in enumerate(envelopes):
    store.save_newest("cohort", envelope, SlotRecord(accepted=number))
    print(number, flush=True)
"""


def test_a_kill_while_storing_leaves_the_old_or_the_new_policy_and_never_a_lower_revision(
    make_envelope: MakeEnvelope, open_slot: Callable[..., SlotPolicies], recipient: Recipient, tmp_path: Path
) -> None:
    envelopes = tmp_path / "envelopes"
    envelopes.mkdir()
    for revision in range(200):
        (envelopes / f"{revision:03}.json").write_bytes(make_envelope(revision))
    for turn in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _STORING_LOOP, str(tmp_path), str(envelopes), recipient.bundle],
            stdout=subprocess.PIPE,
            text=True,
        ) as loop:
            assert loop.stdout is not None
            first = loop.stdout.readline()
            time.sleep(0.02 + 0.007 * turn)
            loop.send_signal(signal.SIGKILL)
            last = int((first + loop.stdout.read()).split("\n")[-2])
        found = open_slot()
        assert used_revision(found) in {last, last + 1}
        assert found.accepted.revision in {last, last + 1}
    PolicyStore(tmp_path, recipient).remove_leftovers()
    assert sorted(path.name.split(".")[0] for path in tmp_path.iterdir()) == [
        "accepted",
        "accepted_copy",
        "envelopes",
        "policy",
    ]


def test_a_new_policy_does_not_hide_that_the_last_good_one_is_still_to_be_stored(
    tmp_path: Path,
    make_envelope: MakeEnvelope,
    open_slot: Callable[..., SlotPolicies],
    accept: Callable[..., None],
    trusted: TrustedKeys,
) -> None:
    slot = open_slot()
    accept(slot, 1)
    saver = PolicySaver({"cohort": slot}, clock=lambda: 0.0)
    kept = tmp_path.rename(tmp_path.with_name("kept"))
    tmp_path.write_bytes(b"a file, where the folder was")
    saver.save("cohort")
    assert list(saver.problems)
    tmp_path.unlink()
    envelope = make_envelope(2)
    document = decode_document(trusted.verify(envelope, payload_type=PAYLOAD_TYPE, role="policy"))
    assert saver.accept("cohort", envelope, document, before=lambda: None)
    assert not list(saver.problems)
    again = open_slot()
    assert again.last_good is not None
    assert again.last_good.document is not None
    assert again.last_good.document.revision == 1
    assert kept.exists()
