"""Random histories of a device: accepted revisions never decrease, and reverted policies are never used again."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import edgeexit.files
from edgeexit.agent.policy.active_policy import PolicySelector
from edgeexit.agent.policy.check import POLICY_SLOTS, PolicySlot, Recipient
from edgeexit.agent.policy.store import PolicyStore
from edgeexit.agent.policy.trial_marker import TrialMarker
from edgeexit.bundle import Bundle
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import Scope

SCOPES: dict[PolicySlot, Scope] = {
    "device": Scope(fleet="plant", device="press-7"),
    "cohort": Scope(fleet="plant", cohort="presses"),
}


class Killed(BaseException):
    """The process ends in the middle of a write."""


class History(RuleBasedStateMachine):
    """A device that receives policies, crashes, loses power, and has a disk that fails or flips a bit."""

    bundle: Bundle
    recipient: Recipient
    trusted: TrustedKeys
    make_envelope: Callable[..., bytes]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.boots = 0
        self.floors: dict[PolicySlot, int] = dict.fromkeys(POLICY_SLOTS, 0)
        self.reverted: set[tuple[PolicySlot, int]] = set()
        self.damaged = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def start(self) -> None:
        (self.folder / "boot_id").write_text(str(self.boots))
        self.selector = PolicySelector(
            self.bundle,
            PolicyStore(self.folder / "state", self.recipient),
            TrialMarker(self.folder / "state", boot_id=self.folder / "boot_id"),
            self.recipient,
            self.trusted,
            crash_window_s=60,
            clock=lambda: self.now,
        )
        self.damaged = False

    @initialize()
    def first_start(self) -> None:
        self.start()

    @rule(slot=st.sampled_from(POLICY_SLOTS), revision=st.integers(1, 12))
    def receive(self, slot: PolicySlot, revision: int) -> None:
        self.selector.receive(self.make_envelope(revision, scope=SCOPES[slot]))

    @rule(slot=st.sampled_from(POLICY_SLOTS), revision=st.integers(1, 12), writes=st.integers(0, 4))
    def be_killed_while_receiving(self, slot: PolicySlot, revision: int, writes: int) -> None:
        before = edgeexit.files._write_and_rename
        left = [writes]

        def write(*arguments: Any) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            before(*arguments)

        with mock.patch("edgeexit.files._write_and_rename", write):
            try:
                self.selector.receive(self.make_envelope(revision, scope=SCOPES[slot]))
            except Killed:
                self.boots += 1  # a power cut
        self.start()

    @rule(slot=st.sampled_from(POLICY_SLOTS), revision=st.integers(1, 12), error=st.sampled_from([28, 30, 5]))
    def receive_while_the_disk_fails(self, slot: PolicySlot, revision: int, error: int) -> None:
        with mock.patch("edgeexit.files._write_and_rename", side_effect=OSError(error, "no")):
            self.selector.receive(self.make_envelope(revision, scope=SCOPES[slot]))

    @rule()
    def let_a_minute_pass(self) -> None:
        self.now += 61
        self.selector.retry()
        self.selector.end_crash_window()

    @rule()
    def pass_trial(self) -> None:
        self.selector.pass_trial()

    @rule()
    def revert(self) -> None:
        self.selector.revert("it failed")

    @rule()
    def crash(self) -> None:
        self.start()

    @rule()
    def lose_power(self) -> None:
        self.boots += 1
        self.start()

    @rule()
    def stop_and_start(self) -> None:
        self.selector.close()
        self.start()

    @precondition(lambda self: not self.damaged)
    @rule(data=st.data())
    def flip_a_bit_and_start(self, data: st.DataObject) -> None:
        files = sorted((self.folder / "state").glob("*.json")) if (self.folder / "state").exists() else []
        if files:
            path = data.draw(st.sampled_from(files))
            content = bytearray(path.read_bytes())
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(bytes(content))
            self.start()

    @invariant()
    def accepted_never_decreases_and_reverted_policies_are_not_used(self) -> None:
        if not hasattr(self, "selector"):
            return
        for slot, one in self.selector._slots.items():
            accepted = one.accepted
            assert accepted.revision >= self.floors[slot]
            self.floors[slot] = accepted.revision
            if one.record.reverted is not None:
                self.reverted.add((slot, one.record.reverted.revision))
            if one.used is not None:
                assert one.used.document is not None
                assert (slot, one.used.document.revision) not in self.reverted
                assert one.used.document.revision <= accepted.revision
        assert self.selector.summary.accepted >= self.selector.active.revision


def test_no_history_lowers_a_revision_or_brings_a_reverted_policy_back(
    bundle: Bundle, recipient: Recipient, trusted: TrustedKeys, make_envelope: Callable[..., bytes]
) -> None:
    History.bundle, History.recipient, History.trusted = bundle, recipient, trusted
    envelopes = {
        (scope, revision): make_envelope(revision, scope=scope) for scope in SCOPES.values() for revision in range(13)
    }
    History.make_envelope = staticmethod(lambda revision, *, scope: envelopes[scope, revision])
    machine = History.TestCase()
    machine.settings = settings(
        max_examples=60,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    with pytest.MonkeyPatch.context() as context:
        context.setattr("os.fsync", lambda _: None)  # what a kill leaves is tested with real processes
        machine.runTest()
