"""The policies that a device holds for one scope: the newest one, the last good one, and which of them is used."""

import logging
from typing import NamedTuple

from edgeexit.agent.policy.check import SHIPPED_REVISION, Accepted, PolicySlot, Recipient, slot_of, verify_policy
from edgeexit.agent.policy.store import PolicyStore, SlotRecord, StoredSlot
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import PolicyDocument
from edgeexit.wire import Rejection, Reversion

_log = logging.getLogger(__name__)


class HeldPolicy(NamedTuple):
    """A stored envelope and its document."""

    envelope: bytes
    document: PolicyDocument | None
    """None if the envelope is damaged, or the keys that are trusted now did not sign it."""


class SlotPolicies:
    """The policies of one slot in memory, and their files. One thread at a time may use it.

    Attributes:
        newest: the policy that was accepted last.
        last_good: the last policy that passed its trial; it may be the newest one.
        record: the highest accepted revision, and whether it was reverted.
        problem: why the newest policy is not used although it was not reverted, or None.

    """

    def __init__(self, slot: PolicySlot, store: PolicyStore, recipient: Recipient, keys: TrustedKeys) -> None:
        self._slot = slot
        self._store = store
        self._recipient = recipient
        stored = store.load(slot)
        self.newest = None if stored.newest is None else HeldPolicy(stored.newest, None)
        self.last_good = None if stored.last_good is None else HeldPolicy(stored.last_good, None)
        self.record = stored.record
        self.problem: str | None = None
        self.verify(keys)
        if self.accepted.revision > self.record.accepted:  # a power cut between the files, or damaged records
            self.record = SlotRecord(accepted=self.accepted.revision)

    @property
    def accepted(self) -> Accepted:
        """What the slot has accepted so far."""
        held = [one.document for one in (self.newest, self.last_good) if one is not None and one.document is not None]
        revision = max([self.record.accepted, *(document.revision for document in held)])
        return Accepted(
            revision,
            next((document for document in held if document.revision == revision), None),
            self._is_reverted(revision),
        )

    @property
    def used(self) -> HeldPolicy | None:
        """The newest policy, or the last good one if the newest one was reverted or cannot be used, or None."""
        for held in (self.newest, self.last_good):
            if held is not None and held.document is not None and not self._is_reverted(held.document.revision):
                return held
        return None

    @property
    def is_proven(self) -> bool:
        """True if the policy that is used has passed its trial."""
        return self.used is not None and self.last_good is not None and self.used.envelope == self.last_good.envelope

    def verify(self, keys: TrustedKeys) -> None:
        """Verify both policies with the keys that are trusted now; log and keep why the newest one is not used."""
        self.problem = None
        self.newest, newest_problem = self._verified(self.newest, keys)
        self.last_good, problem = self._verified(self.last_good, keys)
        if self.last_good is not None and self.newest is not None and self.last_good[0] == self.newest[0]:
            problem = None  # it is the same envelope
        accepted = self.accepted
        if self.newest is None and accepted.revision != SHIPPED_REVISION and accepted.document is None:
            newest_problem = (
                f"stored policy '{self._store.name(self._slot)}' of revision {accepted.revision} is missing"
            )
        for text in filter(None, (newest_problem, problem)):
            _log.warning("%s", text)
        if newest_problem is not None and not accepted.reverted:
            used = self.used
            instead = "none" if used is None or used.document is None else f"revision {used.document.revision}"
            self.problem = f"{newest_problem}; used for this {self._slot} instead: {instead}"

    def accept(self, envelope: bytes, document: PolicyDocument) -> None:
        """Store and hold a policy. Raises OSError if it cannot be stored; then nothing changes in memory."""
        record = SlotRecord(accepted=max(self.accepted.revision, document.revision))
        self._store.save_newest(self._slot, envelope, record)
        self.newest, self.record, self.problem = HeldPolicy(envelope, document), record, None

    def renew(self, envelope: bytes) -> bool:
        """Store another valid envelope of the newest document; return False if it is the stored one. Raises OSError."""
        if self.newest is None or self.newest.document is None or envelope == self.newest.envelope:
            return False
        renewed = HeldPolicy(envelope, self.newest.document)
        if self.last_good is not None and self.last_good.envelope == self.newest.envelope:
            self._store.save_last_good(self._slot, envelope)
            self.last_good = renewed
        self._store.save_newest(self._slot, envelope, self.record)
        self.newest = renewed
        return True

    def hold_reverted(self, reversion: Reversion) -> None:
        """Never use a revision again. `store` stores that."""
        self.record = SlotRecord(accepted=max(self.accepted.revision, reversion.revision), reverted=reversion)

    def store(self) -> None:
        """Store all that is held; files that have this content already stay. Raises OSError if that fails."""
        self._store.save(self._slot, self.held)

    @property
    def held(self) -> StoredSlot:
        """All that is held, as it is stored."""
        newest, last_good = (None if one is None else one.envelope for one in (self.newest, self.last_good))
        return StoredSlot(newest=newest, last_good=last_good, record=self.record)

    def pass_trial(self) -> None:
        """Store the policy that is used as the last good one. Raises OSError if it cannot be stored."""
        if (used := self.used) is not None:
            self._store.save_last_good(self._slot, used.envelope)
            self.last_good = used

    def _is_reverted(self, revision: int) -> bool:
        reverted = self.record.reverted
        return reverted is not None and reverted.revision == revision and revision != SHIPPED_REVISION

    def _verified(self, held: HeldPolicy | None, keys: TrustedKeys) -> tuple[HeldPolicy | None, str | None]:
        if held is None:
            return None, None
        found = verify_policy(held.envelope, keys, self._recipient)
        if isinstance(found, PolicyDocument) and slot_of(found) == self._slot:
            return HeldPolicy(held.envelope, found), None
        problem = found.reason if isinstance(found, Rejection) else f"it is a {slot_of(found)} policy"
        text = f"stored policy '{self._store.name(self._slot)}' is not used: {problem}"
        return HeldPolicy(held.envelope, None), text
