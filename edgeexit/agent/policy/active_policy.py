"""Selects the active policy: the device's own policy, else its cohort's, else the one that ships with the bundle."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from edgeexit.agent.policy.check import (
    POLICY_SLOTS,
    SHIPPED_REVISION,
    PolicySlot,
    Recipient,
    Unchanged,
    check_policy,
    slot_of,
    verify_policy,
)
from edgeexit.agent.policy.saver import PolicySaver
from edgeexit.agent.policy.slot import SlotPolicies
from edgeexit.agent.policy.store import PolicyStore
from edgeexit.agent.policy.trial_marker import TrialMarker, interruption
from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError
from edgeexit.key_set import TrustedKeys
from edgeexit.limited_log import LimitedLog
from edgeexit.log_text import one_line
from edgeexit.policies import AuditRule, Policy, PolicyDocument
from edgeexit.policies.unreachable import unreachable_exits_warning
from edgeexit.runtime import full_model_policy
from edgeexit.wire import Rejection, Reversion

_log = logging.getLogger(__name__)

_RENEW_S: Final = 3600.0
_MAX_WAIT_S: Final = 5.0


class ActivePolicy(NamedTuple):
    """The active policy, its revision and its audit rule, which are replaced together."""

    revision: int
    policy: Policy
    audit: AuditRule | None = None
    """None: the agent's own `audit_fraction`."""


class PolicySummary(NamedTuple):
    """What the state of the device says about its policies."""

    accepted: int
    """The highest accepted revision of the slot of the active policy."""
    rejected: Rejection | None
    """The last rejected policy; None if a valid policy arrived after it."""
    reverted: Reversion | None
    """The policy that this device reverted, until a newer one is accepted for the same cohort or device."""
    problems: tuple[str, ...]
    """One line for each policy that is not used although it should be."""


class PolicyOnTrial(NamedTuple):
    """The active policy, while it has not shown on this device what its document promises."""

    slot: PolicySlot
    document: PolicyDocument
    applied: float
    """Monotonic seconds."""


class PolicySelector:
    """Holds the accepted policies and selects the active one. Thread-safe; reading an attribute never waits.

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
        summary: what the state of the device says.
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
        self._saver = PolicySaver(self._slots, clock=clock)
        for slot in POLICY_SLOTS:
            self._saver.save(slot)  # restores damaged files
        self._renew_due: dict[PolicySlot, float] = {}
        self._rejected: Rejection | None = None
        self.on_trial: PolicyOnTrial | None = None
        self.received = self._slots["cohort"].accepted.revision
        self._revert_interrupted()
        self.active = self._select()
        if self.active.policy is self._full_model:
            _log.warning("the bundle has no policy: every sample runs to full depth; see `edgeexit fit`")
        self._begin_trial()
        self._warn_about_unreachable_exits()
        self.summary = self._summarise()

    @property
    def description(self) -> str:
        """Revision and kind of the active policy, for logs: `revision 3 (confidence)`."""
        revision, policy, _ = self.active
        return f"revision {revision} ({'no policy' if policy is self._full_model else policy.kind})"

    def receive(self, envelope: bytes) -> None:
        """Check a signed policy; store and activate it if it is accepted."""
        with self._changing():
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
                self._rejected = None
                if result.is_held:
                    self._renew(result.slot, envelope)
            else:
                slot, pending = slot_of(result), self._saver.pending.get(slot_of(result))
                self._note_received(slot, result.revision)
                if pending is not None and result.revision < pending.document.revision:
                    reason = f"revision {result.revision} is lower than {pending.document.revision}, which is pending"
                    self._reject(Rejection(reason=reason, revision=result.revision))
                    return
                self._rejected = None
                if pending is None or result.revision > pending.document.revision:
                    self._accept(slot, envelope, result)

    def retry(self) -> None:
        """Store what could not be stored before, if it is time for that."""
        with self._changing():
            for slot, pending in self._saver.retry().items():
                self._accept(slot, pending.envelope, pending.document)

    def update_keys(self, keys: TrustedKeys) -> None:
        """Use other keys from now on: the last good policy replaces one that they did not sign."""
        with self._changing():
            self._keys = keys
            for slot, one in self._slots.items():
                one.verify(keys)
                pending = self._saver.pending.get(slot)
                if pending is not None and not _is_valid(pending.envelope, keys, self._recipient):
                    del self._saver.pending[slot]
            self._activate()
            _log.info("key set version %d is used; the active policy is %s", keys.version, self.description)

    def revert(self, reason: str) -> None:
        """Return from the policy on trial to the last good one; the reverted revision is never applied again."""
        with self._changing():
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
            self._marker.retry()

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

    def store_again(self) -> None:
        """Store all that is held: the state folder was removed. What fails is stored by `retry`."""
        with self._changing():
            for slot in self._slots:
                self._saver.save(slot)

    def close(self) -> None:
        """Remove the marker: the agent stops cleanly."""
        if self._lock.acquire(timeout=_MAX_WAIT_S):  # another thread may hang in a write to a broken disk
            self._marker.end()
            self._limited.close()
            self._saver.close()
            self._lock.release()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
            self.summary = self._summarise()

    def _summarise(self) -> PolicySummary:
        source, slots = self._source(), self._slots.values()
        revisions = [one.accepted.revision for one in slots if source is None or one is self._slots[source]]
        problems = (*self._saver.problems, *(one.problem for one in slots if one.problem is not None))
        return PolicySummary(
            accepted=next((revision for revision in revisions if revision), SHIPPED_REVISION),
            rejected=self._rejected,
            reverted=next((one.record.reverted for one in slots if one.record.reverted is not None), None),
            problems=tuple(one_line(text) for text in problems),
        )

    def _reject(self, rejection: Rejection) -> None:
        what = "policy" if rejection.revision is None else f"policy revision {rejection.revision}"
        self._limited.warning(("rejected", what, rejection.reason), "%s rejected: %s", what, rejection.reason)
        self._rejected = rejection

    def _note_received(self, slot: PolicySlot, revision: int) -> None:
        if slot == "cohort":
            self.received = max(self.received, revision)

    def _accept(self, slot: PolicySlot, envelope: bytes, document: PolicyDocument) -> None:
        """Store and activate a policy; it is pending if the disk fails."""

        def mark() -> None:
            source = self._source()
            if source is None or POLICY_SLOTS.index(slot) <= POLICY_SLOTS.index(source):
                self._mark(slot, document)  # it becomes the active one

        if self._saver.accept(slot, envelope, document, before=mark):
            self._activate()
            _log.info(
                "policy accepted: revision %d (%s) for this %s; the active policy is %s",
                document.revision, document.policy.kind, slot, self.description,
            )  # fmt: skip

    def _renew(self, slot: PolicySlot, envelope: bytes) -> None:
        """Store the envelope of a document that is held already: its keys may be trusted for longer.

        At most once per hour and slot, because a broker could alternate between two envelopes.
        """
        if self._clock() >= self._renew_due.get(slot, -math.inf):
            with contextlib.suppress(OSError):  # the envelope that is stored is valid, too
                if self._slots[slot].renew(envelope):
                    self._renew_due[slot] = self._clock() + _RENEW_S

    def _mark(self, slot: PolicySlot, document: PolicyDocument) -> None:
        if self._crash_window_s:
            self._marker.begin(self._store.name(slot), document.revision)

    def _revert(self, slot: PolicySlot, revision: int, reason: str) -> None:
        _log.warning("policy revision %d is reverted: %s", revision, reason)
        self._slots[slot].hold_reverted(Reversion(revision=revision, reason=one_line(reason)))
        self._saver.save(slot)

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
            return ActivePolicy(used.document.revision, used.document.policy, used.document.audit)
        return ActivePolicy(SHIPPED_REVISION, self._full_model if self._shipped is None else self._shipped)

    def _warn_about_unreachable_exits(self) -> None:
        if (warning := unreachable_exits_warning(self.active.policy, self._exits)) is not None:
            _log.warning("%s", warning)


def _is_valid(envelope: bytes, keys: TrustedKeys, recipient: Recipient) -> bool:
    return isinstance(verify_policy(envelope, keys, recipient), PolicyDocument)


def _shipped_policy(bundle: Bundle) -> Policy | None:
    """Return the policy in the bundle, or None if there is none or it is not usable."""
    try:
        document = bundle.policy()
    except EdgeExitError as error:
        _log.warning("the bundle's policy is not used: %s", error)
        return None
    return None if document is None else document.policy
