"""Selects the active policy: the device's own policy, else its cohort's, else the one that ships with the bundle."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from edgeexit.agent.policy_check import (
    POLICY_SLOTS,
    SHIPPED_REVISION,
    PolicySlot,
    Recipient,
    Unchanged,
    check_policy,
    slot_of,
    verify_policy,
)
from edgeexit.agent.policy_slot import SlotPolicies
from edgeexit.agent.policy_store import PolicyStore
from edgeexit.agent.trial_marker import TrialMarker, interruption
from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError
from edgeexit.key_set import TrustedKeys
from edgeexit.limited_log import LimitedLog
from edgeexit.log_text import one_line
from edgeexit.policies import Policy, PolicyDocument
from edgeexit.policies.unreachable import unreachable_exits_warning
from edgeexit.runtime import full_model_policy
from edgeexit.wire import Rejection, Reversion

_log = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 60.0


class ActivePolicy(NamedTuple):
    """The active policy and its revision; both are replaced together."""

    revision: int
    policy: Policy


class PolicyOnTrial(NamedTuple):
    """The active policy, while it has not shown on this device what its document promises."""

    slot: PolicySlot
    document: PolicyDocument
    applied: float
    """Monotonic seconds."""


class _PendingPolicy(NamedTuple):
    """A policy that is accepted but not stored yet."""

    envelope: bytes
    document: PolicyDocument
    error: str


class PolicySelector:
    """Holds the accepted policies and selects the active one. Thread-safe; reading `active` never waits.

    Args:
        bundle: the bundle that the agent runs.
        store: the files of the accepted policies. The state folder must be locked.
        marker: the file that exists while a policy is new.
        recipient: this device.
        keys: the keys that are trusted now.
        crash_window_s: seconds for which the marker exists; 0: there is none.
        clock: returns monotonic seconds.

    Attributes:
        active: the policy of the next inference.
        rejected: the last rejected policy; None if a valid policy arrived after it.
        on_trial: the active policy, if it is on trial.
        received: the highest revision of a policy for the cohort that has arrived, accepted or not.

    """

    def __init__(
        self,
        bundle: Bundle,
        store: PolicyStore,
        marker: TrialMarker,
        recipient: Recipient,
        keys: TrustedKeys,
        *,
        crash_window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exits = bundle.manifest.exits
        self._store = store
        self._marker = marker
        self._recipient = recipient
        self._keys = keys
        self._crash_window_s = crash_window_s
        self._clock = clock
        self._lock = threading.RLock()
        self._limited = LimitedLog(_log)
        self._shipped = _shipped_policy(bundle)
        self._full_model = full_model_policy(len(bundle.manifest.stages))
        store.remove_leftovers()
        self._slots = {slot: SlotPolicies(slot, store, recipient, keys) for slot in POLICY_SLOTS}
        self._pending: dict[PolicySlot, _PendingPolicy] = {}
        self._retry_s = _FIRST_RETRY_S
        self._retry_due = 0.0
        self._unsaved: set[PolicySlot] = set()
        """Slots whose record could not be stored."""
        self.rejected: Rejection | None = None
        self.on_trial: PolicyOnTrial | None = None
        self.received = self._slots["cohort"].accepted.revision
        self._revert_interrupted()
        self.active = self._select()
        if self.active.policy is self._full_model:
            _log.warning("the bundle has no policy: every sample runs to full depth; see `edgeexit fit`")
        self._begin_trial()
        self._warn_about_unreachable_exits()

    @property
    def description(self) -> str:
        """Revision and kind of the active policy, for logs: `revision 3 (confidence)`."""
        revision, policy = self.active
        return f"revision {revision} ({'no policy' if policy is self._full_model else policy.kind})"

    @property
    def accepted(self) -> int:
        """The highest accepted revision of the slot of the active policy."""
        with self._lock:
            slot = self._source()
            if slot is not None:
                return self._slots[slot].accepted.revision
            revisions = (self._slots[slot].accepted.revision for slot in POLICY_SLOTS)
            return next((revision for revision in revisions if revision), SHIPPED_REVISION)

    @property
    def reverted(self) -> Reversion | None:
        """The policy that this device reverted, until a newer one is accepted for the same cohort or device."""
        with self._lock:
            return next((one.record.reverted for one in self._slots.values() if one.record.reverted is not None), None)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each policy that is not used although it should be."""
        with self._lock:
            pending = (
                f"policy revision {one.document.revision} is accepted, but cannot be stored: {one.error}"
                for one in self._pending.values()
            )
            slots = (one.problem for one in self._slots.values() if one.problem is not None)
            return tuple(one_line(text) for text in (*pending, *slots))

    def receive(self, envelope: bytes) -> None:
        """Check a signed policy; store and activate it if it is accepted."""
        with self._lock:
            result = check_policy(
                envelope, self._keys, self._recipient, {slot: one.accepted for slot, one in self._slots.items()}
            )
            if isinstance(result, Rejection):
                self._reject(result)
            elif isinstance(result, Unchanged):
                self._note_received(result.slot, result.revision)
                self._limited.info(
                    ("unchanged", result.revision, result.reason),
                    "policy revision %d changes nothing: %s", result.revision, result.reason,
                )  # fmt: skip
                self.rejected = None
            else:
                slot, pending = slot_of(result), self._pending.get(slot_of(result))
                self._note_received(slot, result.revision)
                if pending is not None and result.revision < pending.document.revision:
                    reason = f"revision {result.revision} is lower than {pending.document.revision}, which is pending"
                    self._reject(Rejection(reason=reason, revision=result.revision))
                    return
                self.rejected = None
                if pending is None or result.revision > pending.document.revision:
                    self._store_or_wait(slot, envelope, result)

    def retry(self) -> None:
        """Store what could not be stored before, if it is time for that."""
        with self._lock:
            if not (self._pending or self._unsaved) or self._clock() < self._retry_due:
                return
            self._back_off()
            for slot, pending in list(self._pending.items()):
                self._store_or_wait(slot, pending.envelope, pending.document)
            for slot in list(self._unsaved):
                self._save_record(slot)

    def update_keys(self, keys: TrustedKeys) -> None:
        """Use other keys from now on: the last good policy replaces one that they did not sign."""
        with self._lock:
            self._keys = keys
            for slot, one in self._slots.items():
                one.verify(keys)
                pending = self._pending.get(slot)
                if pending is not None and isinstance(
                    verify_policy(pending.envelope, keys, self._recipient), Rejection
                ):
                    del self._pending[slot]
            self._activate()
            _log.info("key set version %d is used; the active policy is %s", keys.version, self.description)

    def revert(self, reason: str) -> None:
        """Return from the policy on trial to the last good one; the reverted revision is never applied again."""
        with self._lock:
            if self.on_trial is None:
                return
            self._revert(self.on_trial.slot, self.on_trial.document.revision, reason)
            self._activate()
            _log.warning("the active policy is %s", self.description)

    def end_crash_window(self) -> None:
        """Remove the marker if the policy on trial has run for long enough."""
        with self._lock:
            trial = self.on_trial
            if self._marker.exists and (trial is None or self._clock() - trial.applied >= self._crash_window_s):
                self._marker.end()

    @property
    def in_crash_window(self) -> bool:
        """True while a crash would revert the active policy."""
        return self._marker.exists

    def pass_trial(self) -> None:
        """Make the policy on trial the last good one. Raises OSError if it cannot be stored; it stays on trial."""
        with self._lock:
            if self.on_trial is not None:
                self._slots[self.on_trial.slot].pass_trial()
                _log.info("policy revision %d passed its trial", self.on_trial.document.revision)
                self.on_trial = None

    def close(self) -> None:
        """Remove the marker: the agent stops cleanly."""
        with self._lock:
            self._marker.end()
            self._limited.close()

    def _reject(self, rejection: Rejection) -> None:
        revision = "" if rejection.revision is None else f" revision {rejection.revision}"
        self._limited.warning(
            ("rejected", rejection.revision, rejection.reason), "policy%s rejected: %s", revision, rejection.reason
        )
        self.rejected = rejection

    def _note_received(self, slot: PolicySlot, revision: int) -> None:
        if slot == "cohort":
            self.received = max(self.received, revision)

    def _store_or_wait(self, slot: PolicySlot, envelope: bytes, document: PolicyDocument) -> None:
        """Store and activate a policy; keep it for `retry` if the disk fails."""
        try:
            source = self._source()
            if source is None or POLICY_SLOTS.index(slot) <= POLICY_SLOTS.index(source):
                self._mark(slot, document)  # it becomes the active one
            self._slots[slot].accept(envelope, document)
        except OSError as error:
            text = error.strerror or str(error)
            if slot not in self._pending:
                self._retry_s, self._retry_due = _FIRST_RETRY_S, self._clock() + _FIRST_RETRY_S
            self._limited.warning(
                ("not stored", document.revision, text),
                "policy revision %d is accepted, but cannot be stored, so it is not used yet: %s; retrying",
                document.revision, text,
            )  # fmt: skip
            self._pending[slot] = _PendingPolicy(envelope, document, text)
            return
        self._pending.pop(slot, None)
        self._unsaved.discard(slot)
        self._activate()
        _log.info(
            "policy accepted: revision %d (%s) for this %s; the active policy is %s",
            document.revision, document.policy.kind, slot, self.description,
        )  # fmt: skip

    def _mark(self, slot: PolicySlot, document: PolicyDocument) -> None:
        if self._crash_window_s:
            self._marker.begin(self._store.name(slot), document.revision)

    def _back_off(self) -> None:
        self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)
        self._retry_due = self._clock() + self._retry_s

    def _revert(self, slot: PolicySlot, revision: int, reason: str) -> None:
        _log.warning("policy revision %d is reverted: %s", revision, reason)
        self._slots[slot].hold_reverted(Reversion(revision=revision, reason=one_line(reason)))
        self._save_record(slot)

    def _save_record(self, slot: PolicySlot) -> None:
        try:
            self._slots[slot].save_record()
            self._unsaved.discard(slot)
        except OSError as error:
            if not self._unsaved:
                self._retry_s, self._retry_due = _FIRST_RETRY_S, self._clock() + _FIRST_RETRY_S
            self._unsaved.add(slot)
            self._limited.warning("record", "the reversion cannot be stored: %s; retrying", error.strerror or error)

    def _revert_interrupted(self) -> None:
        """Revert the policy under which the last process ended."""
        trial = self._marker.interrupted
        if trial is None or not self._crash_window_s:
            return
        for slot, one in self._slots.items():
            used = one.used
            if used is None or used.document is None or one.is_proven or self._store.name(slot) != trial.policy:
                continue
            reason = interruption(trial, self._marker.boot)
            if used.document.revision == trial.revision and reason is not None:
                self._revert(slot, trial.revision, reason)

    def _activate(self) -> None:
        """Select the active policy again, after a change of what the slots hold."""
        before, self.active = self.active, self._select()
        self._begin_trial()
        if self.active != before:
            self._warn_about_unreachable_exits()

    def _begin_trial(self) -> None:
        """Put the active policy on trial, unless it is already, or has passed."""
        slot = self._source()
        used = None if slot is None else self._slots[slot].used
        if slot is None or used is None or used.document is None or self._slots[slot].is_proven:
            self.on_trial = None
            self._marker.end()
        elif self.on_trial is None or (self.on_trial.slot, self.on_trial.document) != (slot, used.document):
            try:
                self._mark(slot, used.document)
            except OSError as error:
                self._limited.warning(
                    "marker", "a crash under the new policy will not be noticed: %s", error.strerror or error
                )
            self.on_trial = PolicyOnTrial(slot, used.document, self._clock())

    def _source(self) -> PolicySlot | None:
        """Return the slot of the active policy; None if it is the one that ships with the bundle."""
        return next((slot for slot in POLICY_SLOTS if self._slots[slot].used is not None), None)

    def _select(self) -> ActivePolicy:
        slot = self._source()
        used = None if slot is None else self._slots[slot].used
        if used is not None and used.document is not None:
            return ActivePolicy(used.document.revision, used.document.policy)
        return ActivePolicy(SHIPPED_REVISION, self._full_model if self._shipped is None else self._shipped)

    def _warn_about_unreachable_exits(self) -> None:
        if (warning := unreachable_exits_warning(self.active.policy, self._exits)) is not None:
            _log.warning("%s", warning)


def _shipped_policy(bundle: Bundle) -> Policy | None:
    """Return the policy in the bundle, or None if there is none or it is not usable."""
    try:
        document = bundle.policy()
    except EdgeExitError as error:
        _log.warning("the bundle's policy is not used: %s", error)
        return None
    return None if document is None else document.policy
