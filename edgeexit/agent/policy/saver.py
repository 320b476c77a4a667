"""Stores what the slots hold, and tries again with growing pauses while the disk fails."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from edgeexit.agent.policy.check import PolicySlot
from edgeexit.agent.policy.slot import SlotPolicies
from edgeexit.limited_log import LimitedLog
from edgeexit.policies import PolicyDocument

_log = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 60.0


class PendingPolicy(NamedTuple):
    """A policy that is accepted, but not stored yet, so it is not used."""

    envelope: bytes
    document: PolicyDocument
    error: str


class PolicySaver:
    """Stores policies and records. One thread at a time may use it.

    Args:
        slots: what is stored.
        clock: returns monotonic seconds.

    Attributes:
        pending: the policy of each slot that the disk has not taken yet.

    """

    def __init__(self, slots: Mapping[PolicySlot, SlotPolicies], *, clock: Callable[[], float]) -> None:
        self._slots = slots
        self._clock = clock
        self._limited = LimitedLog(_log)
        self._unsaved: dict[PolicySlot, str] = {}
        """Slots whose files are older than what is held in memory, and why."""
        self._retry_s = _FIRST_RETRY_S
        self._retry_due = 0.0
        self.pending: dict[PolicySlot, PendingPolicy] = {}

    @property
    def problems(self) -> Iterator[str]:
        """One line for each thing that could not be stored."""
        for one in self.pending.values():
            yield f"policy revision {one.document.revision} is accepted, but cannot be stored: {one.error}"
        for slot, error in self._unsaved.items():
            yield f"what was decided on policies for this {slot} cannot be stored: {error}"

    def accept(
        self, slot: PolicySlot, envelope: bytes, document: PolicyDocument, *, before: Callable[[], None]
    ) -> bool:
        """Call `before`, then store a policy and hold it; if one raises OSError, keep the policy as pending."""
        try:
            before()
            self._slots[slot].accept(envelope, document)
        except OSError as error:
            text = error.strerror or str(error)
            self._schedule()
            self._limited.warning(
                ("pending", document.revision, text),
                "policy revision %d is accepted, but cannot be stored, so it is not used yet: %s; retrying",
                document.revision, text,
            )  # fmt: skip
            self.pending[slot] = PendingPolicy(envelope, document, text)
            return False
        self.pending.pop(slot, None)
        if slot in self._unsaved:
            self.save(slot)  # the last good policy may be missing on the disk
        return True

    def save(self, slot: PolicySlot) -> None:
        """Store all that a slot holds, now or by `take_due`."""
        try:
            self._slots[slot].store()
            self._unsaved.pop(slot, None)
        except OSError as error:
            text = error.strerror or str(error)
            self._schedule()
            self._unsaved[slot] = text
            self._limited.warning(
                ("unsaved", slot, text),
                "what was decided on policies for this %s cannot be stored: %s; retrying",
                slot,
                text,
            )

    def retry(self) -> Mapping[PolicySlot, PendingPolicy]:
        """If it is time to try again, store what slots hold, and return the pending policies, to be accepted again."""
        if not (self.pending or self._unsaved) or self._clock() < self._retry_due:
            return {}
        self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)
        self._retry_due = self._clock() + self._retry_s
        for slot in list(self._unsaved):
            self.save(slot)
        return dict(self.pending)

    def close(self) -> None:
        """Log what has only been counted."""
        self._limited.close()

    def _schedule(self) -> None:
        """Start with a short pause if all was stored before."""
        if not (self.pending or self._unsaved):
            self._retry_s, self._retry_due = _FIRST_RETRY_S, self._clock() + _FIRST_RETRY_S
